"""Statistics features: a row knows what was known when its day began, whoever is unknown is missing, serving reads the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tables_world import DOMAINS, SPEC, build, frames, positives_only, write

from contracts.schema import PAD, FeatureSpec
from trainer.statistics import STRENGTH, Counted, Counts, Rates, local_days
from trainer.tables import Tables

DAY_MS = 86_400_000


FEATURES = [one | {"statistics": True} if one["name"] in ("city", "brand") else one for one in SPEC["features"]]


@pytest.fixture(scope="module")
def log() -> dict[str, pl.DataFrame]:
    return frames()


@pytest.fixture(scope="module")
def tables(log: dict[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    folder = tmp_path_factory.mktemp("statistics")
    yield built(folder, log)


def built(folder: Path, log: dict[str, pl.DataFrame]) -> Tables:
    return build(folder, log, features=FEATURES)


def codes(tables: Tables, split: str, name: str) -> Any:
    """(n,) the codes of one statistic for every row of a split."""
    batch = tables.batch(split, np.arange(tables.split_size(split)))
    for block in ("user", "ad"):
        for field in tables.schema.block(block).fields:  # type: ignore[arg-type]
            if field.name == name:
                return batch.inputs.block(block)[0][:, field.start].numpy()  # type: ignore[arg-type]
    raise KeyError(name)


def test_a_row_counts_what_was_before_its_day(tables: Tables, log: dict[str, pl.DataFrame]) -> None:
    events = log["events"].with_columns(day=pl.col("ms") // DAY_MS)
    for split in ("train", "valid"):
        known = tables.at(split)
        rows = np.arange(known.split_size(split))
        batch = known.batch(split, rows)
        found = codes(known, split, "user_id impressions in domain")
        frozen = known.schema.numerics["user_id impressions in domain"]
        for at in rows[:: len(rows) // 40]:
            mine = (pl.col("uid") == int(known.users[int(batch.user_row[at])])) & (
                pl.col("tab") == known.domains[int(batch.inputs.domain[at])]
            )
            before = events.filter(mine & (pl.col("day") < int(batch.time[at]) // DAY_MS)).height
            expected = frozen.bins(np.array([np.log1p(np.float32(before)) if before else np.nan]))[0]
            assert found[at] == expected


def test_no_row_can_tell_the_labels_of_its_own_day(log: dict[str, pl.DataFrame], tables: Tables, tmp_path: Path) -> None:
    last = pl.col("ms") // DAY_MS == pl.col("ms").max() // DAY_MS - 1  # the day of the valid split
    flipped = log | {
        "events": log["events"].with_columns(click=pl.when(last).then(1 - pl.col("click")).otherwise(pl.col("click")))
    }
    other = built(tmp_path, flipped)
    for split in ("train", "valid"):
        for name in tables.schema.statistics:
            assert (codes(tables.at("valid"), split, name) == codes(other.at("valid"), split, name)).all()
    assert (codes(tables.at("valid"), "test", "user_id rate") != codes(other.at("valid"), "test", "user_id rate")).any()


def test_later_splits_read_the_end_of_what_is_known_or_with_refreshed_their_own_day(tables: Tables) -> None:
    frozen, refreshed = tables.at("train"), Tables(tables.directory, "train", refreshed=True)
    name = "ad_id impressions"
    assert (codes(frozen, "valid", name) == codes(refreshed, "valid", name)).all()  # the first day after
    assert (codes(refreshed, "test", name) > codes(frozen, "test", name)).any()
    assert (codes(refreshed, "test", name) >= codes(frozen, "test", name)).all()


def test_user_rows_and_the_ad_table_hold_the_end(tables: Tables) -> None:
    served = tables.at("test")
    user_codes, _, domain_codes, _ = served.user_sides(np.arange(len(served.users)))
    for domain in range(len(DOMAINS)):
        block = served.user_block(np.arange(len(served.users)), domain)[0]
        assert (block == np.concatenate([user_codes, domain_codes[:, domain]], axis=1)).all()
        assert block.dtype == np.int32
    width = sum(served.schema.width(side)[0] for side in ("ad", "ad_domain"))
    assert served.ad_block(np.arange(3), 0)[0].shape == (3, width)


def test_whoever_was_never_seen_is_missing(log: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    stranger = pl.DataFrame({"uid": [999], "age": [30.0], "city": ["c1"], "seen": [[]]}, schema=log["users"].schema)
    tables = built(tmp_path, log | {"users": pl.concat([log["users"], stranger])})
    row = tables.users.find(["999"])
    user_codes, _, _, _ = tables.user_sides(row)
    fields = tables.schema.block("user").fields
    own = [one.start for one in fields if one.side == "user" and one.name.startswith("user_id ")]
    city = [one.start for one in fields if one.side == "user" and one.name.startswith("city ")]
    assert (user_codes[0, own] == PAD).all() and len(own) == 4
    assert (user_codes[0, city] != PAD).all()
    assert tables.schema.encode("user", {"user_id": ["999"]}, 1).codes[0, own].tolist() == [PAD] * 4


def test_without_timestamps_rows_read_the_other_folds(log: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", log | {"events": log["events"].drop("ms")}, timestamp=None)
    tables = Tables.build(dataset, tmp_path / "tables")
    assert not [one for one in tables.schema.statistics if "recency" in one]
    rows = np.arange(tables.split_size("train"))
    user = tables.column("train", "user_row")[rows]
    shown = np.bincount(user)[user]
    fold = np.random.default_rng(5).integers(5, size=len(rows))
    outside = shown - np.array([((user == u) & (fold == f)).sum() for u, f in zip(user, fold, strict=True)])
    expected = tables.schema.numerics["user_id impressions"].bins(np.log1p(outside.astype(np.float32)))
    assert (codes(tables, "train", "user_id impressions") == expected).all()


def test_positives_alone_have_no_rates(tmp_path: Path) -> None:
    assert positives_only(tmp_path).schema.statistics == ()


def test_rates_are_against_what_the_domains_give_anyone() -> None:
    """Two domains of rates .5 and .1; value 0 is shown in the second alone and clicked as often as in the first."""
    counts = Counts(Counted("ad_id", "ad", np.arange(3)), 2)
    counts.shown_DV[:] = [[0, 1000, 0], [100, 900, 0]]
    counts.clicked_DV[:] = [[0, 500, 0], [50, 50, 0]]
    rates = Rates.of(counts)
    expected = 100 * rates.of_D[1]
    smoothing = STRENGTH * rates.overall
    overall = counts.overall(rates, None, np.array([0, 2, -1]))
    assert overall[0, 2] == pytest.approx(np.log((50 + smoothing) / (expected + smoothing)), rel=1e-5)
    assert np.isnan(overall[1:]).all()
    inside = counts.in_domain(rates, None, np.array([0, 0]), np.array([0, 1]))
    assert np.isnan(inside[0, :2]).all()  # never shown in the first domain, yet its rate there is known from the second
    assert inside[0, 2] > 0.5
    assert inside[1, 2] > 1.0


def test_days_begin_where_the_dataset_says() -> None:
    before_midnight = np.array([0, 15 * 3_600_000, 17 * 3_600_000])
    assert local_days(before_midnight, "UTC").tolist() == [0, 0, 0]
    assert local_days(before_midnight, "Asia/Shanghai").tolist() == [0, 0, 1]
    assert len(local_days(np.empty(0, dtype=np.int64), "UTC")) == 0


def test_a_model_without_statistics_keeps_the_columns(tables: Tables) -> None:
    bare = tables.schema.without_statistics()
    for block in ("user", "ad"):
        full, fewer = tables.schema.block(block), bare.block(block)  # type: ignore[arg-type]
        assert (full.code_width, full.dense_width) == (fewer.code_width, fewer.dense_width)
        assert [one for one in full.fields if one.name not in tables.schema.statistics] == list(fewer.fields)
    assert replace(bare, unread=frozenset()) == tables.schema


def test_only_categories_of_users_and_ads_are_counted() -> None:
    with pytest.raises(ValueError, match="statistics"):
        FeatureSpec(name="hour", side="context", kind="categorical", statistics=True)
    with pytest.raises(ValueError, match="statistics"):
        FeatureSpec(name="age", side="user", kind="numeric", statistics=True)
