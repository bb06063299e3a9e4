"""Ali-CCP in its official raw form (Ma et al., SIGIR 2018): 85 million impressions with clicks; domain = field 301.

sample_skeleton: sample id, click, conversion, common-feature index, count, features. common_features: index, count, features.
A feature is field \\x02 value \\x03 weight, features are separated by \\x01. Everything is streamed; what stays in memory is one
small row a common-feature line (index, user) and one an ad.

A user (field 101) has several common-feature lines; the first of the training file stands for the user everywhere, so that
no row is described by its own future. The combinations 508, 509, 702 and 853 belong to a user and an ad at once: they are context
features of the log, which a live request does not carry.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from contracts.schema import FeatureSpec
from trainer.datasets.files import find_one
from trainer.datasets.spec import DatasetSpec
from trainer.datasets.writer import writing

_USER, _AD, _DOMAIN = "101", "205", "301"
_USER_FIELDS = ("121", "122", "124", "125", "126", "127", "128", "129")
_USER_SEQUENCES = {"109_14": "206", "110_14": "207", "127_14": "216", "150_14": "210"}  # a history of these ad fields
_AD_FIELDS = ("206", "207", "210", "216")
_PAIR_FIELDS = ("508", "509", "702", "853")
_MAX_HISTORY = 50
_SKELETON = ["sample_id", "click", "conversion", "common", "count", "features"]
_COMMON = ["common", "count", "features"]


def import_aliccp(from_dir: Path, to_dir: Path) -> list[str]:
    """sample_skeleton_train.csv, common_features_train.csv, sample_skeleton_test.csv, common_features_test.csv (or .csv.gz)."""
    skeletons = {part: find_one(from_dir, f"sample_skeleton_{part}") for part in ("train", "test")}
    commons = {part: find_one(from_dir, f"common_features_{part}") for part in ("train", "test")}
    notes = []
    with writing(to_dir, _spec()) as writer:
        lines = {part: _user_lines(path) for part, path in commons.items()}
        for part, path in skeletons.items():
            events = writer.add(f"events/{part}.parquet", _events(path, lines[part]))
            counts = pl.scan_parquet(events).select(pl.len(), pl.col("click").sum(), pl.col("user_id").is_null().sum())
            rows, clicks, lost = counts.collect(engine="streaming").row(0)
            notes.append(f"{part}: {rows:,} impressions, {clicks:,} clicks, {lost:,} without a common-feature line")
        first = lines["train"].unique("user_id", keep="first", maintain_order=True)
        newcomers = lines["test"].unique("user_id", keep="first", maintain_order=True).join(first, on="user_id", how="anti")
        users = [_users(commons["train"], first), _users(commons["test"], newcomers)]
        writer.add("users.parquet", pl.concat(users))
        writer.add("ads.parquet", _ads(list(skeletons.values())))
    return notes


def _spec() -> DatasetSpec:
    features = [FeatureSpec(name=one, side="user", kind="categorical") for one in _USER_FIELDS]
    features += [
        FeatureSpec(name=one, side="user", kind="sequence", of=of, max_length=_MAX_HISTORY) for one, of in _USER_SEQUENCES.items()
    ]
    features += [FeatureSpec(name=one, side="ad", kind="categorical") for one in _AD_FIELDS]
    features += [FeatureSpec(name=one, side="context", kind="categorical") for one in _PAIR_FIELDS]
    return DatasetSpec(name="aliccp", domain=_DOMAIN, user_id="user_id", ad_id=_AD, label="click", features=tuple(features))


def _lines(path: Path, columns: list[str]) -> pl.LazyFrame:
    return pl.scan_csv(path, has_header=False, infer_schema=False, quote_char=None, new_columns=columns)


def _field(field: str) -> pl.Expr:
    """The first value of a field, null when the line has none."""
    return pl.col("features").str.extract(f"(?:^|\x01){field}\x02([^\x01\x02\x03]*)").alias(field)


def _sequence(field: str) -> pl.Expr:
    """All values of a field, in the order of the line, at most the last _MAX_HISTORY."""
    found = pl.col("features").str.extract_all(f"(?:^|\x01){field}\x02[^\x01\x02\x03]*")
    return found.list.tail(_MAX_HISTORY).list.eval(pl.element().str.replace(f"^\x01?{field}\x02", "")).alias(field)


def _user_lines(path: Path) -> pl.DataFrame:
    """common, user_id: one row a common-feature line, in file order."""
    return _lines(path, _COMMON).select("common", _field(_USER).alias("user_id")).collect(engine="streaming")


def _events(path: Path, lines: pl.DataFrame) -> pl.LazyFrame:
    samples = _lines(path, _SKELETON).select(
        "common",
        pl.col("click").cast(pl.Int8),
        pl.col("conversion").cast(pl.Int8),
        _field(_AD),
        _field(_DOMAIN),
        *(_field(one) for one in _PAIR_FIELDS),
    )
    return samples.join(lines.lazy(), on="common", how="left", maintain_order="left").drop("common")


def _users(path: Path, chosen: pl.DataFrame) -> pl.LazyFrame:
    described = _lines(path, _COMMON).select(
        "common", *(_field(one) for one in _USER_FIELDS), *(_sequence(one) for one in _USER_SEQUENCES)
    )
    return described.join(chosen.lazy(), on="common", how="inner", maintain_order="left").drop("common")


def _ads(paths: list[Path]) -> pl.LazyFrame:
    """One row an ad. Its fields hardly ever differ between samples; the greatest value is taken, whatever the order of rows."""
    seen = pl.concat([_lines(path, _SKELETON).select(_field(_AD), *(_field(one) for one in _AD_FIELDS)) for path in paths])
    return seen.drop_nulls(_AD).group_by(_AD).agg(pl.max(*_AD_FIELDS)).sort(_AD)
