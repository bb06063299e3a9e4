"""Datasets read back what was written, split without looking ahead, and say clearly what is wrong with dataset.yaml."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import BadInput
from contracts.schema import FeatureSpec
from trainer.datasets import Dataset, DatasetSpec, write_dataset
from trainer.datasets.canonical import BidSpec, TimestampSpec, natural_order
from trainer.datasets.spec import read_spec
from trainer.datasets.split import parse_time

DAY_MS = 86_400_000
SPEC = DatasetSpec(
    name="tiny",
    domain="tab",
    user_id="uid",
    ad_id="video_id",
    timestamp=TimestampSpec(column="time_ms", unit="ms", timezone="Asia/Shanghai"),
    label="is_click",
    bid=BidSpec(column="bid", per="domain"),
    features=(
        FeatureSpec(name="age", side="user", kind="categorical"),
        FeatureSpec(name="mood", side="user", kind="categorical"),
        FeatureSpec(name="price", side="ad", kind="numeric"),
        FeatureSpec(name="hour", side="context", kind="categorical"),
    ),
)


def events(days: int = 10, per_day: int = 8) -> pl.DataFrame:
    """Rows at 01:00 and later of each day in Shanghai; 1 May 2022 there begins at 16:00 UTC the day before."""
    start = int(datetime(2022, 4, 30, 16, tzinfo=UTC).timestamp() * 1000)
    n = days * per_day
    return pl.DataFrame(
        {
            "uid": [row % 5 for row in range(n)],
            "video_id": [f"v{row % 7}" for row in range(n)],
            "tab": [row % 3 + 8 for row in range(n)],
            "time_ms": [start + row // per_day * DAY_MS + 3_600_000 + row for row in range(n)],
            "is_click": [row % 2 for row in range(n)],
            "mood": [f"m{row}" for row in range(n)],
            "hour": [1] * n,
            "propensity": [0.5] * n,
        }
    )


def tiny(path: Path, **changes: Any) -> Dataset:
    users = pl.DataFrame({"uid": [0, 1], "age": ["x", None], "undeclared": [1, 2]})
    ads = pl.DataFrame({"video_id": ["v0"], "price": [1.5]})
    ad_domains = pl.DataFrame({"video_id": ["v0", "v0"], "tab": [8, 9], "bid": [0.5, 2.0], "active": [True, False]})
    tables: dict[str, Any] = {"events": {"all": events()}, "users": users, "ads": ads, "ad_domains": ad_domains} | changes
    write_dataset(path, tables.pop("spec", SPEC), **tables)
    return Dataset.open(path)


def test_canonical_columns_whatever_the_files_call_them(tmp_path: Path) -> None:
    dataset = tiny(tmp_path / "d")
    frame = dataset.scan_events(["propensity"]).collect()
    assert frame.schema == {
        "user_id": pl.String,
        "ad_id": pl.String,
        "domain": pl.String,
        "label": pl.Float32,
        "timestamp": pl.Datetime("us", "UTC"),
        "mood": pl.String,
        "hour": pl.Int64,
        "propensity": pl.Float64,
    }
    assert frame["timestamp"][0] == datetime(2022, 4, 30, 17, tzinfo=UTC)
    assert frame["user_id"].to_list() == [str(row % 5) for row in range(80)]
    assert dataset.domains() == ["8", "9", "10"]
    assert dataset.source_of("age") == "users.parquet"
    assert dataset.source_of("mood") == "events"


def test_side_tables_hold_keys_declared_features_and_bids_only(tmp_path: Path) -> None:
    dataset = tiny(tmp_path / "d")
    users, ads, ad_domains = dataset.users(), dataset.ads(), dataset.ad_domains()
    assert users is not None and ads is not None and ad_domains is not None
    assert users.collect().to_dict(as_series=False) == {"user_id": ["0", "1"], "age": ["x", None]}
    assert ads.collect().to_dict(as_series=False) == {"ad_id": ["v0"], "price": [1.5]}
    assert ad_domains.collect().to_dict(as_series=False) == {
        "ad_id": ["v0", "v0"],
        "domain": ["8", "9"],
        "bid": [0.5, 2.0],
        "active": [True, False],
    }
    assert dataset.user_domains() is None


def test_spec_survives_the_trip_through_yaml(tmp_path: Path) -> None:
    tiny(tmp_path / "d")
    assert read_spec(tmp_path / "d") == SPEC


def test_default_cutoff_is_the_midnight_that_leaves_a_fifth_of_the_days(tmp_path: Path) -> None:
    dataset = tiny(tmp_path / "d")
    assert dataset.cutoff() == datetime(2022, 5, 8, 16, tzinfo=UTC)  # 9 May in Shanghai: two of ten days
    train, valid, test = (part.collect() for part in dataset.split_scans())
    assert (train.height, valid.height, test.height) == (56, 8, 16)
    assert train["timestamp"].max() < valid["timestamp"].min() <= valid["timestamp"].max() < test["timestamp"].min()  # type: ignore[operator]


@pytest.mark.parametrize(
    "given", ["2022-05-09", "20220509", 1652025600000, "1652025600000", "2022-05-08T16:00:00Z", "2022-05-09T00:00"]
)
def test_every_spelling_of_a_cutoff(tmp_path: Path, given: str | int) -> None:
    assert tiny(tmp_path / "d").cutoff(given) == datetime(2022, 5, 8, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("2022-06-01", "leaves no events for the test"),
        ("2022-04-01", "leaves no events to train on"),
        ("yesterday", "test_from 'yesterday' is no time"),
    ],
)
def test_a_cutoff_that_leaves_nothing_is_refused(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tiny(tmp_path / "d").cutoff(given)


def test_a_day_that_begins_at_one(tmp_path: Path) -> None:
    assert parse_time("2018-11-04", "America/Sao_Paulo") == datetime(2018, 11, 4, 3, tzinfo=UTC)  # no midnight that day


@pytest.mark.parametrize("days", [1, 2, 3])
def test_short_logs_still_have_three_parts(tmp_path: Path, days: int) -> None:
    parts = [part.collect() for part in tiny(tmp_path / "d", events={"all": events(days, 40)}).split_scans()]
    assert all(part.height for part in parts)
    assert sum(part.height for part in parts) == days * 40


@given(days=st.integers(1, 30), per_day=st.integers(4, 30))
@settings(max_examples=15, deadline=None)
def test_time_splits_lose_no_row_and_never_look_ahead(tmp_path_factory: pytest.TempPathFactory, days: int, per_day: int) -> None:
    dataset = tiny(tmp_path_factory.mktemp("d") / "d", events={"all": events(days, per_day)})
    train, valid, test = (part.collect() for part in dataset.split_scans())
    assert train.height + valid.height + test.height == days * per_day
    times = [part["timestamp"].to_list() for part in (train, valid, test)]
    assert max(times[0], default=datetime.min.replace(tzinfo=UTC)) < min(times[2])
    assert max(times[1], default=datetime.min.replace(tzinfo=UTC)) < min(times[2])
    assert times[0] and times[2]


def timeless(**changes: Any) -> DatasetSpec:
    return SPEC.model_copy(update={"timestamp": None} | changes)


def test_file_names_fix_the_split(tmp_path: Path) -> None:
    parts = {"train-0": events(3), "valid": events(1), "test_b": events(2)}
    dataset = tiny(tmp_path / "d", spec=timeless(), events=parts)
    assert [part.collect().height for part in dataset.split_scans()] == [24, 8, 16]
    assert dataset.cutoff() is None
    with pytest.raises(BadInput, match="names no timestamp"):
        dataset.cutoff("2022-05-09")


def test_where_no_test_exists_the_valid_files_and_their_candidates_are_the_test(tmp_path: Path) -> None:
    lists = pl.DataFrame({"user_id": ["0"], "domain": ["8"], "ad_ids": [["v0", "v1"]]})
    dataset = tiny(tmp_path / "d", spec=timeless(), events={"train": events(9), "valid": events(1)}, candidates={"valid": lists})
    train, valid, test = (part.collect() for part in dataset.split_scans())
    assert test.height == 8
    assert train.height + valid.height == 72 and 0 < valid.height < train.height
    candidates = dataset.candidates("test")
    assert candidates is not None and candidates.collect().equals(lists)


def test_a_file_named_like_no_split_beside_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"extra\.parquet: its name starts with none of train, valid, test"):
        tiny(tmp_path / "d", spec=timeless(), events={"train": events(1), "extra": events(1)}).split_scans()


def test_hashed_splits_do_not_depend_on_row_order_and_keep_repeats_together(tmp_path: Path) -> None:
    rows = events(40)
    one = tiny(tmp_path / "one", spec=timeless(), events={"all": rows}).split_scans()
    other = tiny(tmp_path / "other", spec=timeless(), events={"all": rows.reverse()}).split_scans()
    keys = [{tuple(row) for row in part.select("user_id", "ad_id", "domain").collect().rows()} for part in one]
    assert keys == [{tuple(row) for row in part.select("user_id", "ad_id", "domain").collect().rows()} for part in other]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert all(keys)


def test_logged_events_join_the_training_data(tmp_path: Path) -> None:
    dataset = tiny(tmp_path / "d")
    logged = tmp_path / "log" / "day=2022-05-12"
    logged.mkdir(parents=True)
    time = pl.Series([datetime(2022, 5, 11, 20, tzinfo=UTC)], dtype=pl.Datetime("us", "UTC"))
    row = {"user_id": ["new"], "ad_id": ["v0"], "domain": ["9"], "timestamp": time, "label": [1], "hour": ["7"]}
    pl.DataFrame(row).write_parquet(logged / "a.parquet")
    joined = Dataset.open(dataset.dir, extra_events=[tmp_path / "log"])
    assert joined.scan_events().collect().height == 81
    assert joined.scan_events().filter(pl.col("user_id") == "new").collect()["hour"].to_list() == ["7"]
    assert joined.digest() != dataset.digest()
    pl.DataFrame({"user_id": ["x"]}).write_parquet(logged / "b.parquet")
    with pytest.raises(BadInput, match=r"b\.parquet: column 'ad_id' is missing"):
        joined.scan_events()


def test_digest_follows_content_and_ignores_truth(tmp_path: Path) -> None:
    one = tiny(tmp_path / "one").digest()
    assert one == tiny(tmp_path / "two", truth={"law": events(1)}).digest()
    assert one != tiny(tmp_path / "three", events={"all": events(9)}).digest()
    assert one != tiny(tmp_path / "four", events={"other": events()}).digest()


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(ids=st.lists(st.tuples(HOSTILE, HOSTILE, HOSTILE), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_any_unicode_id_round_trips(tmp_path_factory: pytest.TempPathFactory, ids: list[tuple[str, str, str]]) -> None:
    users, ads, domains = (list(column) for column in zip(*ids, strict=True))
    spec = DatasetSpec(name="n", domain="d", user_id="u", ad_id="a", label="l")
    frame = pl.DataFrame({"u": users, "a": ads, "d": domains, "l": [1] * len(ids)})
    path = tmp_path_factory.mktemp("d") / "d"
    write_dataset(path, spec, events={"all": frame}, users=pl.DataFrame({"u": users}))
    dataset = Dataset.open(path)
    back = dataset.scan_events().collect()
    assert (back["user_id"].to_list(), back["ad_id"].to_list(), back["domain"].to_list()) == (users, ads, domains)
    assert set(dataset.domains()) == set(domains)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_units_of_time(tmp_path: Path, unit: str) -> None:
    moment = datetime(2022, 5, 1, 12, 30, tzinfo=UTC)
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    frame = events(1).with_columns(time_ms=pl.lit(int(moment.timestamp()) * scale))
    spec = SPEC.model_copy(update={"timestamp": TimestampSpec.model_validate({"column": "time_ms", "unit": unit})})
    assert tiny(tmp_path / "d", spec=spec, events={"all": frame}).scan_events().collect()["timestamp"][0] == moment
    floats = frame.with_columns(pl.col("time_ms").cast(pl.Float64))
    assert tiny(tmp_path / "f", spec=spec, events={"all": floats}).scan_events().collect()["timestamp"][0] == moment


def test_naive_times_are_local_and_aware_ones_are_not(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"timestamp": TimestampSpec(column="time_ms", timezone="Asia/Shanghai")})
    naive = events(1).with_columns(time_ms=pl.lit(datetime(2022, 5, 1, 8)))
    aware = events(1).with_columns(time_ms=pl.lit(datetime(2022, 5, 1, 8, tzinfo=UTC)))
    assert tiny(tmp_path / "n", spec=spec, events={"e": naive}).scan_events().collect()["timestamp"][0] == datetime(
        2022, 5, 1, tzinfo=UTC
    )
    assert tiny(tmp_path / "a", spec=spec, events={"e": aware}).scan_events().collect()["timestamp"][0] == datetime(
        2022, 5, 1, 8, tzinfo=UTC
    )


def test_bids_per_event_and_per_ad(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"bid": BidSpec(column="cost", per="event")})
    dataset = tiny(tmp_path / "e", spec=spec, events={"all": events(1).with_columns(cost=pl.lit(2.5))})
    assert dataset.scan_events().collect()["bid"].to_list() == [2.5] * 8
    spec = SPEC.model_copy(update={"bid": BidSpec(column="cost", per="ad")})
    ads = tiny(tmp_path / "a", spec=spec, ads=pl.DataFrame({"video_id": ["v0"], "price": [1.0], "cost": [3.0]})).ads()
    assert ads is not None and ads.collect()["bid"].to_list() == [3.0]


def test_writing_never_replaces_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="holds files that are no dataset"):
        tiny(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        tiny(tmp_path / "file")


def test_a_failed_write_leaves_the_old_dataset_whole(tmp_path: Path) -> None:
    before = tiny(tmp_path / "d").digest()

    def breaks() -> Any:
        yield "first", events(1)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write_dataset(tmp_path / "d", SPEC, events=breaks())
    assert Dataset.open(tmp_path / "d").digest() == before
    assert [one.name for one in tmp_path.iterdir()] == ["d"]
    assert tiny(tmp_path / "d", events={"all": events(2)}).digest() != before


GOOD = {"name": "n", "domain": "tab", "user_id": "u", "ad_id": "a", "label": "y"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**GOOD, "lable": "y"}, "lable: no such field"),
        ({"name": "n", "domain": "tab", "user_id": "u", "label": "y"}, "ad_id: this field is required"),
        ({key: GOOD[key] for key in ("name", "domain", "user_id", "ad_id")}, "no label; name the 0/1 column"),
        ({**GOOD, "user_id": 5}, "user_id: Input should be a valid string, got 5"),
        ({**GOOD, "timestamp": {"column": "t", "unit": "minutes"}}, "timestamp.unit: .*'s', 'ms', 'us' or 'ns', got 'minutes'"),
        ({**GOOD, "timestamp": {"column": "t", "unit": "s", "timezone": "Mars/Base"}}, "unknown timezone 'Mars/Base'"),
        ({**GOOD, "bid": {"column": "b", "per": "week"}}, "bid.per: .*got 'week'"),
        ({**GOOD, "features": [{"name": "f", "side": "users", "kind": "numeric"}]}, "features.0.side: .*got 'users'"),
        ({**GOOD, "features": [{"name": "f", "side": "user", "kind": "numeric"}] * 2}, "feature 'f' is declared 2 times"),
        (
            {**GOOD, "features": [{"name": "label", "side": "user", "kind": "numeric"}]},
            "'label' has the name of a canonical column",
        ),
        (["a", "list"], "holds list, not a mapping"),
    ],
)
def test_dataset_yaml_is_read_strictly(tmp_path: Path, body: Any, message: str) -> None:
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(body))
    with pytest.raises(BadInput, match=message) as error:
        read_spec(tmp_path)
    assert "dataset.yaml" in error.value.message and error.value.hint and "\n" not in str(error.value)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"dataset\.yaml is missing"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.yaml").write_text("name: [")
    with pytest.raises(BadInput, match="is not YAML"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(GOOD))
    with pytest.raises(BadInput, match=r"events holds no \.parquet file"):
        Dataset.open(tmp_path)
    (tmp_path / "events").mkdir()
    pl.DataFrame({"u": [1], "a": [1], "tab": [1]}).write_parquet(tmp_path / "events" / "e.parquet")
    with pytest.raises(BadInput, match=r"e\.parquet: column 'y' is missing \(it has u, a, tab\)"):
        Dataset.open(tmp_path).scan_events()


def test_natural_order() -> None:
    assert natural_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert natural_order(["s10", "s2", "t1", "a"]) == ["a", "s2", "s10", "t1"]
