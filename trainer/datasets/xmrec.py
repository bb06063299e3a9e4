"""XMarket as released for the WSDM Cup 2022 (cross-market recommendation): who bought what in which market; domain = market.

Training pairs are train_5core, as in ADI's public-data experiment (arXiv 2206.09672, 5.3); train.tsv, fuller, stands in only
where train_5core is missing. One held-out positive a user is ranked among 100 candidates: the official run where it exists,
else 99 uniform items of the market outside the user's training items. Lists are shuffled: in some releases the positive's
place gave it away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from contracts.errors import BadInput
from trainer.datasets.files import find, find_one, require_columns, scan
from trainer.datasets.spec import DatasetSpec
from trainer.datasets.writer import writing

SEED = 2022
_NEGATIVES = 99
_HELD_OUT = ("valid", "test")
_SPEC = DatasetSpec(name="xmrec", domain="market", user_id="user_id", ad_id="item_id", positives_only=True)


def import_xmrec(from_dir: Path, to_dir: Path) -> list[str]:
    """A folder a market (s1, s2, s3, t1, t2: whichever are there), each with train_5core.tsv(.gz) or train.tsv(.gz),
    valid_qrel.tsv(.gz), and if there: valid_run.tsv, test_qrel.tsv, test_run.tsv (plain or .gz). Repeated pairs are dropped."""
    markets = sorted({path.parent for path in find(from_dir, "train_5core", "train")}, key=lambda one: one.name)
    if not markets:
        raise BadInput(f"{from_dir} holds no market folder", "expected s1/train_5core.tsv.gz, s1/valid_qrel.tsv.gz, ...")
    notes = []
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in ("train", *_HELD_OUT)}
    lists: dict[str, list[pl.DataFrame]] = {name: [] for name in _HELD_OUT}
    corpora = []
    for number, market in enumerate(markets):
        train, dropped = _pairs(find_one(market, "train_5core") if find(market, "train_5core") else find_one(market, "train"))
        held_out = {name: _pairs(found[0])[0] for name in _HELD_OUT if (found := find(market, f"{name}_qrel"))}
        runs = {name: _run(found[0]) for name in held_out if (found := find(market, f"{name}_run"))}
        items = [one["item_id"] for one in (train, *held_out.values())] + [one["item_id"].explode() for one in runs.values()]
        corpus = pl.concat(items).unique().sort()
        corpora.append(_in_market(pl.DataFrame({"ad_id": corpus}), market.name))
        parts["train"].append(_in_market(train, market.name))
        for name, positives in held_out.items():
            rng = np.random.default_rng([SEED, number, _HELD_OUT.index(name)])
            run = runs.get(name)
            drawn = _official(positives, run, rng) if run is not None else _drawn(positives, train, corpus, rng)
            parts[name].append(_in_market(positives, market.name))
            lists[name].append(_in_market(drawn, market.name, "domain"))
        lengths = ", ".join(f"{len(one):,} {name}" for name, one in held_out.items()) or "nothing held out"
        notes.append(f"{market.name}: {len(train):,} train ({dropped:,} repeats dropped), {lengths}, {len(corpus):,} items")
    with writing(to_dir, _SPEC) as writer:
        for name, frames in parts.items():
            if frames:
                writer.add(f"events/{name}.parquet", pl.concat(frames))
        for name, frames in lists.items():
            if frames:
                writer.add(f"candidates/{name}.parquet", pl.concat(frames))
        writer.add("ad_domains.parquet", pl.concat(corpora).rename({"market": "domain"}).with_columns(active=pl.lit(True)))
    return notes


def _pairs(path: Path) -> tuple[pl.DataFrame, int]:
    """user_id, item_id in file order without repeats, and how many repeats there were."""
    frame = scan(path)
    require_columns(path, frame, ["userId", "itemId"])
    pairs = frame.select(pl.col("userId").alias("user_id"), pl.col("itemId").alias("item_id")).collect()
    kept = pairs.unique(maintain_order=True)
    return kept, len(pairs) - len(kept)


def _run(path: Path) -> pl.DataFrame:
    """user_id, item_id: list of the official candidates. The file has no header: user, tab, items joined by commas."""
    names = ["user_id", "item_id"]
    rows = pl.read_csv(path, separator="\t", quote_char=None, has_header=False, infer_schema=False, new_columns=names)
    return rows.with_columns(pl.col("item_id").str.split(","))


def _in_market(frame: pl.DataFrame, market: str, column: str = "market") -> pl.DataFrame:
    return frame.with_columns(pl.lit(market).alias(column))


def _official(positives: pl.DataFrame, run: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """The official lists, with the positive put in where a list lacks it."""
    official = dict(zip(run["user_id"], run["item_id"].to_list(), strict=True))
    rows = {}
    for user, wanted in _by_user(positives).items():
        others = [one for one in official.get(user, []) if one not in wanted]
        rows[user] = _shuffled([*wanted, *others], rng)
    return _lists(rows)


def _drawn(positives: pl.DataFrame, train: pl.DataFrame, corpus: pl.Series, rng: np.random.Generator) -> pl.DataFrame:
    items, seen, rows = corpus.to_list(), _by_user(train), {}
    for user, wanted in _by_user(positives).items():
        excluded = {*wanted, *seen.get(user, ())}
        tries = rng.choice(len(items), min(len(items), _NEGATIVES + len(excluded)), replace=False)
        others = [items[one] for one in tries if items[one] not in excluded][:_NEGATIVES]
        rows[user] = _shuffled([*wanted, *others], rng)
    return _lists(rows)


def _by_user(pairs: pl.DataFrame) -> dict[str, list[str]]:
    grouped = pairs.group_by("user_id", maintain_order=True).agg("item_id")
    return dict(zip(grouped["user_id"], grouped["item_id"].to_list(), strict=True))


def _shuffled(items: list[str], rng: np.random.Generator) -> list[str]:
    return [items[one] for one in rng.permutation(len(items))]


def _lists(rows: dict[str, list[str]]) -> pl.DataFrame:
    return pl.DataFrame(
        {"user_id": list(rows), "ad_ids": list(rows.values())}, schema={"user_id": pl.String, "ad_ids": pl.List(pl.String)}
    )
