"""Tables say what the log says, in the encoding that a server uses, and know nothing of what comes after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tables_world as world

from contracts.errors import BadInput
from contracts.schema import FIRST, PAD, UNKNOWN
from trainer import table_writer
from trainer.tables import Tables
from trainer.tabulate import SPLITS


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


def raw(tables: Tables, split: str, row: int) -> dict[str, Any]:
    """An event of the tables, back in external ids."""
    events = {name: tables.column(split, name)[row] for name in ("user_row", "ad_row", "domain", "label", "time")}
    return {
        "uid": int(tables.users[int(events["user_row"])]),
        "item": tables.ads[int(events["ad_row"])],
        "tab": tables.domains[events["domain"]],
        "ms": int(events["time"]),
        "click": int(events["label"]),
    }


def test_every_event_is_there_once_in_the_split_of_its_day(tables: Tables) -> None:
    kept = [("train", row) for row in range(tables.split_size("train"))]
    kept += [(split, row) for split in ("valid", "test") for row in range(tables.split_size(split))]
    found = sorted((one["ms"], one["uid"], one["item"], one["tab"], one["click"]) for one in (raw(tables, *at) for at in kept))
    logged = world.frames()["events"].select("ms", "uid", "item", "tab", "click")
    assert found == sorted(logged.iter_rows())
    day = {split: {raw(tables, split, row)["ms"] // 86_400_000 for row in range(tables.split_size(split))} for split in SPLITS}
    assert max(day["train"]) < min(day["valid"]) <= max(day["valid"]) < min(day["test"])


def test_a_domain_is_one_range_in_the_order_of_the_log(tables: Tables) -> None:
    logged = world.frames()["events"]
    for number, name in enumerate(tables.domains):
        rows = tables.domain_rows("train", number)
        assert (tables.column("train", "domain")[rows] == number).all()
        expected = logged.filter(pl.col("tab") == name)["ms"].to_list()[: len(rows)]
        assert tables.column("train", "time")[rows].tolist() == expected
    assert sum(len(tables.domain_range("train", number)) for number in range(3)) == tables.split_size("train")


@pytest.mark.parametrize("split", SPLITS)
def test_a_batch_is_what_a_server_encodes_from_raw_values(tables: Tables, split: str) -> None:
    data = world.frames()
    rows = np.arange(0, tables.split_size(split), 7)
    batch = tables.batch(split, rows)
    events = data["events"].with_columns(pl.col("uid").cast(pl.Int64))
    for at, row in enumerate(rows):
        event = raw(tables, split, int(row))
        full = events.filter(*(pl.col(name) == event[name] for name in event)).row(0, named=True)
        full |= data["users"].filter(uid=event["uid"]).row(0, named=True) | data["ads"].filter(item=event["item"]).row(
            0, named=True
        )
        here = {"uid": event["uid"], "tab": event["tab"]}
        full |= next(data["user_domains"].filter(**here).iter_rows(named=True), {})
        full |= data["ad_domains"].filter(item=event["item"], tab=event["tab"]).row(0, named=True)
        full |= {"user_id": event["uid"], "ad_id": event["item"]}
        for block, sides in (("user", ("user", "user_domain")), ("ad", ("ad", "ad_domain")), ("context", ("context",))):
            encoded = [tables.schema.encode(side, {name: [value] for name, value in full.items()}, 1) for side in sides]  # type: ignore[arg-type]
            codes, dense = batch.inputs.block(block)  # type: ignore[arg-type]
            declared = np.ones(codes.shape[1], dtype=bool)  # statistics are not raw values: test_statistics.py
            for field in (one for one in tables.schema.block(block).fields if one.name in tables.schema.statistics):  # type: ignore[arg-type]
                declared[field.columns] = False
            assert codes[at][declared].tolist() == np.concatenate([one.codes[0] for one in encoded])[declared].tolist()
            assert dense[at].tolist() == np.concatenate([one.dense[0] for one in encoded]).tolist()
        assert batch.label[at] == event["click"]


def test_what_comes_after_training_changes_nothing_that_is_frozen(tables: Tables, tmp_path: Path) -> None:
    data = world.frames()
    later = pl.col("ms") >= int(world.START.timestamp() * 1000) + 2 * 86_400_000
    data["events"] = data["events"].with_columns(
        pl.when(later).then(pl.col("uid") + 1000).otherwise("uid").alias("uid"),
        pl.when(later).then(pl.lit("never")).otherwise("hour").alias("hour"),
        pl.when(later).then(pl.lit(1e6)).otherwise("speed").alias("speed"),
        pl.when(later).then(pl.lit("elsewhere")).otherwise("tab").alias("tab"),
    )
    stranger = {"uid": [1001, 1002, 5000], "age": [1e6, 1e6, 1e6], "city": ["nowhere"] * 3, "seen": [["never"]] * 3}
    data["users"] = pl.concat([data["users"], pl.DataFrame(stranger)], how="vertical_relaxed")
    other = world.build(tmp_path, data)
    assert other.domains == tables.domains
    assert other.schema.numerics == tables.schema.numerics
    assert {name: list(one) for name, one in other.schema.vocabularies.items()} == {
        name: list(one) for name, one in tables.schema.vocabularies.items()
    }
    assert other.split_size("test") == 0


def test_chunk_sizes_and_the_order_of_rows_do_not_matter(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "CHUNK_ROWS", 37)
    chunked = world.build(tmp_path / "chunked")
    for path in sorted(tables.directory.rglob("*.npy")):
        name = path.relative_to(tables.directory)
        assert path.read_bytes() == (chunked.directory / name).read_bytes(), name
    data = world.frames()
    shuffled = world.build(
        tmp_path / "shuffled", {name: one.sample(fraction=1.0, shuffle=True, seed=3) for name, one in data.items()}
    )
    for name in sorted(path.relative_to(tables.directory) for path in tables.directory.rglob("vocab/*.npy")):
        assert (tables.directory / name).read_bytes() == (shuffled.directory / name).read_bytes(), name


def test_vocabularies_are_ordered_by_count_and_pool_the_rare(tmp_path: Path) -> None:
    tables = world.build(tmp_path, min_count=20)
    counts = dict(world.frames()["events"].head(2 * world.PER_DAY)["item"].value_counts().iter_rows())
    expected = sorted((one for one, n in counts.items() if n >= 20), key=lambda one: (-counts[one], one))
    assert list(tables.schema.vocabularies["ad_id"]) == expected
    assert 0 < len(expected) < world.ADS
    column = tables.ad_block(np.arange(len(tables.ads)), 0)[0][:, 0]
    assert {one: int(code) for one, code in zip(tables.ads, column, strict=True)} == {
        one: expected.index(one) + FIRST if one in expected else UNKNOWN for one in tables.ads
    }


def test_bins_have_distinct_edges_and_missing_is_a_code_of_its_own(tables: Tables) -> None:
    edges = tables.schema.numerics["speed"].edges
    assert len(edges) == 31 and list(edges) == sorted(set(edges))
    speed = next(one for one in tables.schema.block("context").fields if one.name == "speed")
    codes = tables.column("train", "context_codes")[:, speed.start]
    missing = world.frames()["events"].head(2 * world.PER_DAY)["speed"].is_nan().sum()
    assert (codes == PAD).sum() == missing > 0
    assert np.bincount(codes)[FIRST:].min() > 0


def test_eligible_bids_and_popularity_come_from_the_tables_of_ads(tables: Tables) -> None:
    listed = world.frames()["ad_domains"]
    clicks = world.frames()["events"].head(2 * world.PER_DAY).filter(pl.col("click") == 1)
    for number, name in enumerate(tables.domains):
        here = listed.filter(tab=name)
        assert sorted(tables.ads.take(tables.eligible(number))) == sorted(here.filter("active")["item"])
        rows = tables.ads.find(here["item"].to_list())
        assert tables.bid(number)[rows].tolist() == here["bid"].cast(pl.Float32).to_list()
        own = dict(clicks.filter(tab=name)["item"].value_counts().iter_rows())
        popular = tables.ads.take(tables.popular(number))
        assert sorted(popular) == sorted(here.filter("active")["item"])
        assert [own.get(one, 0) for one in popular] == sorted((own.get(one, 0) for one in popular), reverse=True)


def test_without_ad_domains_the_ads_seen_in_training_are_eligible(tmp_path: Path) -> None:
    data = world.frames()
    data.pop("ad_domains")
    tables = world.build(tmp_path, data, features=world.SPEC["features"][:-1])
    seen = data["events"].head(2 * world.PER_DAY).filter(tab="story")["item"].unique().to_list()
    number = tables.domains.index("story")
    assert sorted(tables.ads.take(tables.eligible(number))) == sorted(seen)
    later = {raw(tables, split, row)["item"] for split in SPLITS[1:] for row in tables.domain_rows(split, number)}
    assert later - set(seen), "the world has ads that begin after the training window"
    assert sorted(tables.at("test").ads.take(tables.at("test").eligible(number))) == sorted({*seen, *later})
    assert set(tables.bid(number)) == {1.0}


def test_a_feature_found_in_events_is_the_last_value_of_the_training_window(tmp_path: Path) -> None:
    data = world.frames()
    data["events"] = data["events"].with_columns(pl.col("ms").cast(pl.String).alias("mark"))
    data["events"] = data["events"].sample(fraction=1.0, shuffle=True, seed=1)
    features = [*world.SPEC["features"], {"name": "mark", "side": "user", "kind": "categorical"}]
    tables = world.build(tmp_path, data, min_count=1, features=features)
    field = next(one for one in tables.schema.block("user").fields if one.name == "mark")
    cutoff = int(world.START.timestamp() * 1000) + 2 * 86_400_000
    last = dict(data["events"].filter(pl.col("ms") < cutoff).group_by("uid").agg(pl.col("ms").max()).iter_rows())
    codes = tables.user_block(np.arange(len(tables.users)), 0)[0][:, field.start]
    for row, user in enumerate(tables.users):
        assert tables.schema.vocabularies["mark"][int(codes[row]) - FIRST] == str(last[int(user)])


def test_bids_per_event_become_the_mean_of_the_domain(tmp_path: Path) -> None:
    data = world.frames()
    data["events"] = data["events"].with_columns((pl.col("ms") % 7).cast(pl.Float64).alias("cost"))
    data["ad_domains"] = data["ad_domains"].drop("bid")
    tables = world.build(tmp_path, data, bid={"column": "cost", "per": "event"})
    train = data["events"].head(2 * world.PER_DAY)
    here = dict(train.filter(tab="feed").group_by("item").agg(pl.col("cost").mean()).iter_rows())
    for item, cost in here.items():
        assert tables.bid(0)[tables.ads.find([item])[0]] == pytest.approx(cost)


def test_history_reaches_through_the_split_asked_for_and_never_shows_a_row_its_own_ad(tmp_path: Path) -> None:
    tables = world.positives_only(tmp_path)
    field = next(one for one in tables.schema.block("user").fields if one.name == "history")
    ad_id = tables.schema.block("ad").fields[0].start
    for as_of in SPLITS:
        seen = tables.at(as_of)
        for row, user in enumerate(seen.users):
            codes = seen.user_block(np.array([row]), 0)[0][0, field.columns]
            past = [one for split in SPLITS[: SPLITS.index(as_of) + 1] for one in _taken(seen, split, row)]
            known = {one for one in past if one >= FIRST}
            assert set(codes[codes != PAD]) == known, user
        batch = seen.batch("train", np.arange(seen.split_size("train")))
        own = batch.inputs.ad_codes[:, ad_id, None]
        assert not (batch.inputs.user_codes[:, field.columns] == own)[own.squeeze(1) >= FIRST].any()


def _taken(tables: Tables, split: str, user_row: int) -> list[int]:
    rows = tables.column(split, "ad_row")[tables.column(split, "user_row") == user_row]
    return tables.ad_block(np.asarray(rows), 0)[0][:, 0].tolist()


def test_candidates_keep_their_order_and_pad_shorter_lists(tmp_path: Path) -> None:
    tables = world.positives_only(tmp_path)
    found = tables.candidates("test")
    assert found is not None and tables.candidates("valid") is None
    stored = pl.read_parquet(tmp_path / "data" / "candidates" / "test.parquet")
    lists = {(tables.users[int(u)], tables.domains[d]): tables.ads.take(a[a >= 0]) for u, d, a in zip(*found, strict=True)}
    assert lists == {(one["user_id"], one["domain"]): one["ad_ids"] for one in stored.iter_rows(named=True)}


def test_a_nan_label_is_named_with_its_count(tmp_path: Path) -> None:
    data = world.frames()
    bad = pl.when(pl.int_range(pl.len()) < 3).then(float("nan")).otherwise(pl.col("click").cast(pl.Float64))
    data["events"] = data["events"].with_columns(bad.alias("click"))
    with pytest.raises(BadInput, match="label is NaN in 3 rows of the train split"):
        world.build(tmp_path, data)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"name": "seen", "side": "user", "kind": "sequence", "of": "age"}, "'seen' is a sequence of 'age'"),
        ({"name": "city", "side": "user", "kind": "numeric"}, "'city' is numeric, its column holds String"),
    ],
)
def test_a_feature_of_the_wrong_kind_is_named(tmp_path: Path, feature: dict[str, Any], message: str) -> None:
    features = [feature, *(one for one in world.SPEC["features"] if one["name"] != feature["name"])]
    with pytest.raises(BadInput, match=message):
        world.build(tmp_path, features=features)
