"""Each problem of a dataset as `mdrec data check` prints it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from contracts.errors import BadInput
from contracts.schema import FeatureSpec
from trainer.datasets import DatasetSpec, write_dataset
from trainer.datasets.canonical import BidSpec, TimestampSpec
from trainer.datasets.check import check

SPEC = DatasetSpec(
    name="mine",
    domain="place",
    user_id="user",
    ad_id="ad",
    timestamp=TimestampSpec(column="time", unit="s"),
    label="click",
    bid=BidSpec(column="bid", per="domain"),
    features=(
        FeatureSpec(name="age", side="user", kind="numeric"),
        FeatureSpec(name="seen", side="user", kind="sequence", of="ad_id"),
        FeatureSpec(name="colour", side="ad", kind="categorical"),
        FeatureSpec(name="hour", side="context", kind="categorical"),
    ),
)
EVENTS = pl.DataFrame(
    {
        "user": ["u1", "u1", "u2", "u3"],
        "ad": [1, 2, 1, 2],
        "place": ["feed", "story", "feed", "feed"],
        "time": [1_650_000_000, 1_650_000_001, 1_650_090_000, 1_650_090_001],
        "click": [0, 1, 0, 1],
        "hour": [5, 5, 6, 6],
    }
)
USERS = pl.DataFrame({"user": ["u1", "u2"], "age": [30.0, None], "seen": [[1, 2], None]})
ADS = pl.DataFrame({"ad": [1, 2], "colour": ["red", "blue"]})
AD_DOMAINS = pl.DataFrame({"ad": [1, 2], "place": ["feed", "feed"], "bid": [1.0, None], "active": [True, True]})


def told(path: Path, spec: DatasetSpec = SPEC, **tables: Any) -> list[str]:
    parts: dict[str, Any] = {"events": {"e": EVENTS}, "users": USERS, "ads": ADS, "ad_domains": AD_DOMAINS} | tables
    write_dataset(path / "d", spec, **parts)
    return [str(one) for one in check(path / "d").problems]


def test_a_good_dataset_is_summed_up(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    report = check(tmp_path / "d")
    report.raise_if_bad()
    assert str(report).splitlines() == [
        "mine: ok, 4 events, 2 positives, 2 days from 2022-04-15 to 2022-04-16",
        "domain  rows  users  ads  positives  click rate",
        "  feed     3      3    2          1      0.3333",
        " story     1      1    1          1      1.0000",
    ]


def with_events(**columns: Any) -> dict[str, Any]:
    return {"events": {"e": EVENTS.with_columns(**{name: pl.Series(values) for name, values in columns.items()})}}


LONG = "é" * 129  # 258 bytes
CASES: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"events": {"e": EVENTS.drop("click")}},
        [
            "events/e.parquet, column 'click': is missing "
            "(the file has user, ad, place, time, hour; correct dataset.yaml or add it)"
        ],
    ),
    (
        with_events(click=[0.0, float("nan"), None, 1.0]),
        ["events/e.parquet, column 'click': 2 rows null or NaN (drop those rows, or label them 0)"],
    ),
    (
        with_events(click=[0, 1, 2, -1]),
        ["events/e.parquet, column 'click': 2 rows neither 0 nor 1 (write the label as 0 or 1)"],
    ),
    (
        with_events(click=["no", "yes", "no", "yes"]),
        ["events/e.parquet, column 'click': is String, not a label (write it as 0 and 1)"],
    ),
    (
        with_events(user=["u1", None, "", LONG]),
        [
            "events/e.parquet, column 'user': 1 row null (drop those rows, or give them an id)",
            "events/e.parquet, column 'user': 1 row empty (drop those rows, or give them an id)",
            "events/e.parquet, column 'user': 1 row longer than 256 bytes in UTF-8 (shorten or hash those ids)",
        ],
    ),
    (
        with_events(ad=[1.0, 2.0, 1.0, 2.0]),
        ["events/e.parquet, column 'ad': is Float64, not an id (ids are integers or strings; a float would change long ids)"],
    ),
    (
        with_events(place=[None, "story", "feed", None]),
        ["events/e.parquet, column 'place': 2 rows null (drop those rows, or give them an id)"],
    ),
    (
        with_events(time=[1_650_000_000_000] * 4),
        ["events/e.parquet, column 'time': 4 rows outside the years 1990 to 2100 (is the unit right?)"],
    ),
    (
        with_events(time=["2022-04-15"] * 4),
        [
            "events/e.parquet, column 'time': is String, not a time "
            "(write integers since 1970 with a unit, or a Parquet timestamp)"
        ],
    ),
    (
        with_events(hour=[[1]] * 4),
        [
            "events/e.parquet, column 'hour': is List(Int64), not one value a row "
            "(declare it `kind: sequence`, or write one value)"
        ],
    ),
    (
        {"events": {"e": EVENTS.drop("hour")}},
        [
            "events/*.parquet, column 'hour': is missing; it is declared as a feature of side context "
            "(write the column, or take feature 'hour' out of dataset.yaml)"
        ],
    ),
    (
        {"events": {"e": EVENTS, "f": EVENTS.drop("hour")}},
        [
            "events/f.parquet, column 'hour': is missing "
            "(the file has user, ad, place, time, click; correct dataset.yaml or add it)"
        ],
    ),
    (
        {"users": USERS.drop("age")},
        [
            "users.parquet or events/*.parquet, column 'age': is missing; it is declared as a feature of side user "
            "(write the column, or take feature 'age' out of dataset.yaml)"
        ],
    ),
    (
        {"users": USERS.with_columns(seen=pl.lit("1,2"))},
        ["users.parquet, column 'seen': is String, not a list (write a list column, or declare it `kind: categorical`)"],
    ),
    (
        {"users": USERS.with_columns(age=pl.lit("old"))},
        ["users.parquet, column 'age': is String, not a number (cast it to a number, or declare it categorical)"],
    ),
    (
        {"users": USERS.with_columns(age=pl.lit(float("inf")))},
        ["users.parquet, column 'age': 2 rows infinite (write null when a value is unknown)"],
    ),
    (
        {"users": pl.concat([USERS, USERS.head(1), USERS.head(1)])},
        ["users.parquet, column 'user': 2 rows with user of another row (keep one row each)"],
    ),
    (
        {"ads": pl.concat([ADS, ADS])},
        ["ads.parquet, column 'ad': 2 rows with ad of another row (keep one row each)"],
    ),
    (
        {"ads": ADS.rename({"ad": "thing"})},
        ["ads.parquet, column 'ad': is missing (the file has thing, colour; correct dataset.yaml or add it)"],
    ),
    (
        {"ad_domains": AD_DOMAINS.with_columns(bid=pl.Series([-1.0, float("nan")]), active=pl.lit("yes"))},
        [
            "ad_domains.parquet, column 'active': is String, not a flag (write it as true and false)",
            "ad_domains.parquet, column 'bid': 2 rows with no price (a bid is 0 or more; null means 1.0)",
        ],
    ),
    ({"events": {"e": EVENTS.clear()}}, ["events/*.parquet: hold no rows (log some impressions first)"]),
    (
        with_events(click=[0, 0, 0, 0]),
        ["events/*.parquet, column 'click': 0 rows with label 1: there is nothing to learn (is this the right column?)"],
    ),
    (
        with_events(click=[1, 1, 1, 1]),
        [
            "events/*.parquet, column 'click': 4 rows with label 1, and none with 0 "
            "(write `positives_only: true` when only positives are logged)"
        ],
    ),
    (
        {"spec": SPEC.model_copy(update={"positives_only": True})},
        [
            "events/*.parquet, column 'click': 2 rows with label 0 in a dataset of positives only "
            "(take `positives_only` out of dataset.yaml)"
        ],
    ),
    (
        {"spec": SPEC.model_copy(update={"timestamp": TimestampSpec(column="time")})},
        ["events/e.parquet, column 'time': is Int64 and has no unit (write `timestamp: {column: ..., unit: ms}` (or s, us, ns))"],
    ),
    (
        {"spec": SPEC.model_copy(update={"timestamp": None}), "events": {"train": EVENTS, "more": EVENTS}},
        [
            "events: DIR/events/more.parquet: its name starts with none of train, valid, test, others' names do "
            "(rename it after the split it belongs to)"
        ],
    ),
    (
        {"candidates": {"test": pl.DataFrame({"user_id": ["u1"], "domain": ["feed"], "ad_ids": ["1,2"]})}},
        [
            "candidates/test.parquet, column 'ad_ids': is String, not a list "
            "(write a list column, or declare it `kind: categorical`)"
        ],
    ),
]


@pytest.mark.parametrize(("tables", "expected"), CASES, ids=[case[1][0].partition(" (")[0][:70] for case in CASES])
def test_each_problem_as_printed(tmp_path: Path, tables: dict[str, Any], expected: list[str]) -> None:
    problems = told(tmp_path, **tables)
    assert [one.replace(str(tmp_path / "d"), "DIR") for one in problems] == expected
    report = check(tmp_path / "d")
    assert not report.ok and str(report).splitlines()[0] == f"mine: {len(expected)} problem{'s' if len(expected) > 1 else ''}"
    with pytest.raises(BadInput) as error:
        report.raise_if_bad()
    assert error.value.hint == report.problems[0].remedy


def test_several_problems_are_all_told(tmp_path: Path) -> None:
    problems = told(tmp_path, users=pl.concat([USERS, USERS]), **with_events(click=[0, 1, 5, 1]))
    assert len(problems) == 2
    with pytest.raises(BadInput, match=r"1 row neither 0 nor 1; and 1 more"):
        check(tmp_path / "d").raise_if_bad()


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    told(tmp_path)
    broken = tmp_path / "d" / "users.parquet"
    broken.write_bytes(broken.read_bytes()[:40])
    assert [one.file for one in check(tmp_path / "d").problems if "not a readable Parquet" in one.what] == ["users.parquet"]


def test_no_events_at_all(tmp_path: Path) -> None:
    told(tmp_path)
    (tmp_path / "d" / "events" / "e.parquet").unlink()
    assert [one.remedy for one in check(tmp_path / "d").problems] == ["write the impressions to events/*.parquet"]
