"""Units are what the joined events add up to, whatever the ledger holds and into however many parts it is cut."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abtest import keyed
from abtest import units as units_module
from abtest.drain import EXPOSURE, FEEDBACK
from abtest.keyed import split
from abtest.ledger import exposures, join_report, joined
from abtest.units import join_counts, refresh, units

START = datetime(2026, 11, 20, tzinfo=UTC)
ADS = ("a0", "a1")
ARMS = (
    [],
    [{"experiment": "e", "arm": "control", "recipe": "r0"}],
    [{"experiment": "e", "arm": "control", "recipe": "r1"}],  # the same arm by another recipe: the same units
    [{"experiment": "f", "arm": "x", "recipe": "r"}, {"experiment": "e", "arm": 'b"\n', "recipe": "r"}],
    [{"experiment": "e", "arm": 'b"\n', "recipe": "r"}, {"experiment": "f", "arm": "x", "recipe": "r"}],
)


@dataclass(frozen=True)
class Answer:
    user: str
    request: str
    at: timedelta
    tries: list[tuple[timedelta, str, int, list[str]]]
    """How much later, domain, which of ARMS, ads: a retry may be answered otherwise."""


@dataclass(frozen=True)
class Outcome:
    answer: int
    ad: str
    kind: str
    event: str
    value: float | None
    delay: timedelta


HOURS = st.integers(0, 20).map(lambda hours: timedelta(hours=hours))
TRIES = st.tuples(
    HOURS, st.sampled_from(["feed", "search"]), st.integers(0, len(ARMS) - 1), st.lists(st.sampled_from(ADS), max_size=4)
)
ANSWERS = st.lists(
    st.builds(
        Answer, st.sampled_from(["u0", "u1", "u2"]), st.sampled_from(["r0", "r1", "u0"]),
        st.integers(0, 71).map(lambda hours: timedelta(hours=hours)), st.lists(TRIES, min_size=1, max_size=3),
    ),
    unique_by=lambda one: (one.user, one.request), max_size=6,
)  # fmt: skip
DELAYS = st.sampled_from(
    [timedelta(), timedelta(days=2), timedelta(days=7), timedelta(days=7, microseconds=1), timedelta(days=7, hours=9)]
)
KINDS = st.sampled_from(["impression", "click", "click", "conversion"])
OUTCOMES = st.lists(
    st.builds(
        Outcome, st.integers(0, 3), st.sampled_from([*ADS, "never shown"]), KINDS,
        st.sampled_from([f"i{number}" for number in range(9)]), st.sampled_from([None, 0.25, 0.5, 4.0]), DELAYS,
    ),
    max_size=20,
)  # fmt: skip


def write(directory: Path, answers: list[Answer], outcomes: list[Outcome]) -> None:
    """As the drain does: a file a day and kind, stream ids in the order of time."""
    rows: list[tuple[str, datetime, dict[str, Any]]] = []
    for one in answers:
        for later, domain, arms, ads in [(timedelta(), *one.tries[0][1:]), *one.tries[1:]]:
            time = START + one.at + later
            shown = [{"ad_id": ad, "position": at, "bid": 1.0 + at} for at, ad in enumerate(ads)]
            rows.append(
                ("exposure", time, {"user_id": one.user, "request_id": one.request, "domain": domain, "time": time,
                                    "arms": ARMS[arms], "ads": shown, "context": "{}"})
            )  # fmt: skip
    for event in outcomes:
        about = answers[event.answer] if event.answer < len(answers) else Answer("u0", "no such request", timedelta(), [])
        received = START + about.at + event.delay
        rows.append(
            ("feedback", received, {"user_id": about.user, "request_id": about.request, "ad_id": event.ad, "type": event.kind,
                                    "event_id": f"{about.user}{event.event}", "value": event.value, "received": received})
        )  # fmt: skip
    files: defaultdict[Path, list[dict[str, Any]]] = defaultdict(list)
    for number, (kind, time, row) in enumerate(sorted(rows, key=lambda row: row[1])):
        files[directory / f"day={time:%Y-%m-%d}" / f"{kind}-0-1.parquet"].append({**row, "stream_ms": number, "stream_seq": 0})
    for path, its in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = EXPOSURE if path.name.startswith("exposure") else FEEDBACK
        pl.DataFrame(its, schema=schema, orient="row").write_parquet(path)


def added_up(directory: Path) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """(day, user, domain, arms) -> requests, impressions, clicks, conversions, revenue, from the joined events."""
    found: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)

    def unit(row: dict[str, Any]) -> Counter[str]:
        lines = sorted(
            json.dumps({name: arm[name] for name in ("experiment", "arm")}, separators=(",", ":")) for arm in row["arms"]
        )
        return found[row["time"].date(), row["user_id"], row["domain"], "\n".join(lines)]

    for row in exposures(directory).collect().iter_rows(named=True):
        unit(row)["requests"] += 1
    for row in joined(directory).collect().iter_rows(named=True):
        unit(row).update(impressions=1, clicks=row["clicked"], conversions=row["conversions"], revenue=row["revenue"])
    names = ("requests", "impressions", "clicks", "conversions", "revenue")
    return {key: tuple(float(sums[name]) for name in names) for key, sums in found.items()}


NOW = timedelta()
TWO_PRICES = [Outcome(0, "a0", "click", name, value, NOW) for name, value in (("i0", None), ("i1", 4.0), ("i2", 0.25))]


@example([Answer("u0", "r0", NOW, [(NOW, "feed", 0, ["a0"])])], TWO_PRICES, 1000)
@settings(max_examples=30, deadline=None)
@given(answers=ANSWERS, outcomes=OUTCOMES, rows_a_part=st.sampled_from([3, 1000]))
def test_units_and_counts_are_those_of_the_joined_events(
    tmp_path_factory: pytest.TempPathFactory, answers: list[Answer], outcomes: list[Outcome], rows_a_part: int
) -> None:
    directory = tmp_path_factory.mktemp("ledger") / "events"
    write(directory, answers, outcomes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "_ROWS_A_READ", 2 * rows_a_part)
        patch.setattr(keyed, "_ROWS_A_PART", rows_a_part)
        patch.setattr(units_module, "_ROWS_A_FILE", 2)
        refresh(directory)
    ours = {row[:4]: tuple(map(float, row[4:])) for row in units(directory).collect().iter_rows()}
    assert ours == added_up(directory)
    mine, slow = join_counts(directory), join_report(directory)
    assert (mine.exposures, mine.duplicate_exposures, mine.events, mine.joined_events, mine.late_events) == (
        slow.exposures, slow.duplicate_exposures, slow.events, slow.joined_events, slow.late_events,
    )  # fmt: skip
    assert mine.duplicate_events + mine.orphan_events == slow.duplicate_events + slow.orphan_events


def test_keys_are_as_many_as_what_they_stand_for_and_parts_keep_users_and_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where ids are alike: here each user's first request, and an event of it, have the user's own id."""
    users = [f"u{number}" for number in range(2000)]
    frames = [
        pl.DataFrame({"user_id": users, "request_id": users if turn == 0 else f"r{turn}", "turn": turn}) for turn in range(4)
    ]
    answers = pl.concat(frames).with_columns(
        time=START + pl.duration(seconds="turn"), domain=pl.lit("feed"), arms=pl.lit([], EXPOSURE["arms"]),
        ads=pl.concat_list(pl.struct(ad_id=pl.lit(ad), bid=pl.lit(1.0)) for ad in ADS),
    )  # fmt: skip
    event = pl.when(pl.col("ad_id") == "a0").then("request_id").otherwise(pl.format("{}{}", "request_id", "ad_id"))
    clicks = answers.explode("ads").unnest("ads").with_row_index("row").with_columns(type=pl.lit("click"), event_id=event)
    outcomes = clicks.with_columns(value=pl.col("row").cast(pl.Float64), received="time")
    monkeypatch.setattr(keyed, "_ROWS_A_READ", 160)
    monkeypatch.setattr(keyed, "_ROWS_A_PART", 80)
    parts = list(split(answers.lazy(), outcomes.lazy(), 24_000, tmp_path))
    asked, came = (pl.concat(frames) for frames in zip(*parts, strict=True))
    assert len(parts) == 300 and asked["request"].n_unique() == 8000
    assert came["event"].n_unique() == came["shown"].n_unique() == 16_000
    assert set(came["shown"]) == set(asked.explode("ads", "bids").select(pl.col("request") ^ pl.col("ads")).to_series())
    assert sum(part["user_id"].n_unique() for part, _ in parts) == 2000
    assert all(part["time"].is_sorted() and events["value"].is_sorted() for part, events in parts)
    assert not list(tmp_path.rglob("*.ipc"))
