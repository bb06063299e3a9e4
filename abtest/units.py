"""The ledger a day and user at a time: what reports read, so that none of them touches events again.

    <ledger>-units/day=2026-11-22/<n>.parquet     UNITS, rows of the users of one part
    <ledger>-units/day=2026-11-22/_made.json      from which files of the ledger, and where the day's events went

day: of the exposure. An outcome comes up to WINDOW later, so a day is made again while files that may hold its outcomes
arrive; then it stays. Users are worked on in parts, by a hash of their id, which bounds the memory whatever the ledger's size.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from abtest.drain import EXPOSURE, FEEDBACK, scan
from abtest.ledger import WINDOW, JoinReport
from contracts.files import exclusive, read_json, replace_dir, write_json

UNITS = pl.Schema(
    {
        "day": pl.Date(), "user_id": pl.String(), "domain": pl.String(), "arms": pl.String(), "requests": pl.UInt32(),
        "impressions": pl.UInt32(), "clicks": pl.UInt32(), "conversions": pl.UInt32(), "revenue": pl.Float64(),
    }
)  # fmt: skip
"""One row a day, user, domain and set of arms. arms: a line `{"experiment":...,"arm":...}` for each, none outside experiments.
requests: answers; impressions: ads of them that an event came back for; clicks: ads clicked; revenue: currency units."""

_MADE = "_made.json"
_COUNTS = ("exposures", "repeated", "matched", "joined", "late")
_REQUEST = ["user_id", "request_id"]
_SHOWN = [*_REQUEST, "ad_id"]
_ROWS_A_PART = 1_500_000  # rows of the ledger held at a time: about 700 MiB at the widest
_RUN = 4  # days made together, which share the reading of their outcomes
_DAY = timedelta(days=1)


def units(directory: Path, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
    """UNITS of the ledger's days since .. until (inclusive) as `refresh` left them."""
    files = [
        path
        for day in _days(_place(directory))
        if (since is None or day >= since) and (until is None or day <= until)
        for path in sorted((_place(directory) / f"day={day}").glob("*.parquet"))
    ]
    if not files:
        return pl.LazyFrame(schema=UNITS)
    return pl.scan_parquet(files, hive_partitioning=False, glob=False)


def refresh(directory: Path) -> list[date]:
    """Make the days whose ledger files are not those that they were made from; returns them. One at a time; a day that a
    dying process left is made again."""
    place = _place(directory)
    place.mkdir(parents=True, exist_ok=True)
    with exclusive(place / "refresh.lock"):
        inputs = {day: _inputs(directory, day) for day in _days(directory)}
        stale = [day for day, names in inputs.items() if (_made(place / f"day={day}") or {}).get("inputs") != names]
        for run in _runs(stale):
            _make(directory, place, run, inputs)
    return stale


def part_of(frame: pl.LazyFrame, part: int, parts: int) -> pl.LazyFrame:
    """The rows of every parts-th user. The hash holds within one process only, which is all that it is used for."""
    return frame if parts == 1 else frame.filter(pl.col("user_id").hash(seed=7) % parts == part)


def parts_for(rows: int, rows_a_part: int) -> int:
    return max(-(-rows // rows_a_part), 1)


def count(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def join_counts(directory: Path, since: date | None = None, until: date | None = None) -> JoinReport:
    """Where the events of those days went, from the counts that lie beside their units. Events of exposures before `since`
    count as orphans; so do the repeats of orphans."""
    days = [day for day in _days(_place(directory)) if (since is None or day >= since) and (until is None or day <= until)]
    made = [_made(_place(directory) / f"day={day}") or {} for day in days]
    total = {name: sum(one.get(name, 0) for one in made) for name in _COUNTS}
    received = [
        path for day in _days(directory) if since is None or day >= since for path in _files(directory, "feedback", day, day)
    ]
    events = count(pl.scan_parquet(received, hive_partitioning=False, glob=False)) if received else 0
    return JoinReport(
        exposures=total["exposures"],
        duplicate_exposures=total["repeated"],
        events=events,
        duplicate_events=total["matched"] - total["joined"] - total["late"],
        orphan_events=events - total["matched"],
        late_events=total["late"],
        joined_events=total["joined"],
    )


def _make(directory: Path, place: Path, run: Sequence[date], inputs: dict[date, list[str]]) -> None:
    first, last = run[0], run[-1]
    answers = _scan(directory, "exposure", EXPOSURE, first - _DAY, last)
    outcomes = _scan(directory, "feedback", FEEDBACK, first, last + WINDOW + _DAY)
    parts = parts_for(count(answers) + count(outcomes), _ROWS_A_PART)
    counts: dict[date, Counter[str]] = {day: Counter() for day in run}
    with ExitStack() as undo:
        places = {day: _fresh(place, day, undo) for day in run}
        for part in range(parts):
            made = _Part.of(part_of(answers, part, parts), part_of(outcomes, part, parts), first)
            for day, path in places.items():
                made.units.filter(pl.col("day") == day).write_parquet(path / f"{part}.parquet")
                counts[day].update(made.counts.get(day, {}))
        for day, path in places.items():
            write_json(path / _MADE, {"inputs": inputs[day], **counts[day]})
            replace_dir(path, place / f"day={day}")


@dataclass(frozen=True)
class _Part:
    """UNITS and counts by day of some users; the same counts as `ledger.joined` has, a test says so."""

    units: pl.DataFrame
    counts: dict[date, dict[str, int]]

    @classmethod
    def of(cls, answers: pl.LazyFrame, outcomes: pl.LazyFrame, first: date) -> _Part:
        every = answers.select(*_REQUEST, "domain", "time", "arms", "ads", day=pl.col("time").dt.date()).collect(
            engine="streaming"
        )
        asked = every.unique(["day", *_REQUEST], keep="first", maintain_order=True)
        yesterdays = asked.select(pl.col("day") + _DAY, *_REQUEST)  # a retry after midnight is no new request
        asked = asked.join(yesterdays, on=["day", *_REQUEST], how="anti").filter(pl.col("day") >= first)
        shown = (
            asked.lazy()
            .select("day", "time", *_REQUEST, "ads")
            .explode("ads", empty_as_null=False)
            .unnest("ads")
            .select("day", "time", *_SHOWN, "bid")
            .unique(["day", *_SHOWN], keep="first", maintain_order=True)
        )
        came = outcomes.select(*_SHOWN, "event_id", "type", "value", "received").collect(engine="streaming")
        matched = shown.join(came.lazy(), on=_SHOWN, how="inner", maintain_order="right").with_columns(
            late=pl.col("received") - pl.col("time") > WINDOW
        ).collect()  # fmt: skip
        counted = matched.unique("event_id", keep="first", maintain_order=True)
        units = (
            asked.lazy()
            .select("day", *_REQUEST, "domain", arms=_arms_key())
            .join(_by_request(counted.lazy().filter(~pl.col("late"))), on=["day", *_REQUEST], how="left")
            .group_by("day", "user_id", "domain", "arms")
            .agg(pl.len().alias("requests"), pl.col("impressions", "clicks", "conversions", "revenue").sum())
            .select(pl.col(name).cast(kind) for name, kind in UNITS.items())
        )
        totals = {
            "exposures": asked, "repeated": every.filter(pl.col("day") >= first), "matched": matched,
            "joined": counted.filter(~pl.col("late")), "late": counted.filter("late"),
        }  # fmt: skip
        by_day = {name: dict(frame.group_by("day").len().iter_rows()) for name, frame in totals.items()}
        counts = {day: {name: found.get(day, 0) for name, found in by_day.items()} for day in by_day["repeated"]}
        for one in counts.values():
            one["repeated"] -= one["exposures"]
        return cls(units.collect(), counts)


def _by_request(events: pl.LazyFrame) -> pl.LazyFrame:
    """events: of shown ads, each once, in time, in the order of the stream."""
    clicks = pl.col("type") == "click"
    by_ad = events.group_by("day", *_SHOWN, maintain_order=False).agg(
        clicked=clicks.any(),
        conversions=(pl.col("type") == "conversion").sum(),
        price=pl.coalesce(pl.col("value").filter(clicks).drop_nulls().first(), pl.col("bid").first()),
    )
    return by_ad.group_by("day", *_REQUEST).agg(
        impressions=pl.len(),
        clicks=pl.col("clicked").sum(),
        conversions=pl.col("conversions").sum(),
        revenue=pl.col("price").filter("clicked").sum(),
    )


def _arms_key() -> pl.Expr:
    one = pl.element().struct
    line = pl.struct(one.field("experiment"), one.field("arm")).struct.json_encode()
    return pl.col("arms").list.eval(line).list.sort().list.join("\n").fill_null("")


def _place(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}-units")


def _fresh(place: Path, day: date, undo: ExitStack) -> Path:
    """An empty folder for a day that is being made; what a dying process left there goes."""
    path = place / f"making-{day}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    undo.callback(shutil.rmtree, path, ignore_errors=True)
    return path


def _days(directory: Path) -> list[date]:
    return sorted(date.fromisoformat(path.name.removeprefix("day=")) for path in directory.glob("day=*"))


def _inputs(directory: Path, day: date) -> list[str]:
    """Names of the ledger's files that the day's units depend on. They say which batch a file holds, and a batch stays."""
    answers = _files(directory, "exposure", day - _DAY, day)
    return [path.relative_to(directory).as_posix() for path in answers + _files(directory, "feedback", day, day + WINDOW + _DAY)]


def _made(path: Path) -> dict[str, Any] | None:
    return dict(read_json(path / _MADE)) if (path / _MADE).exists() else None


def _runs(days: Sequence[date]) -> Iterator[Sequence[date]]:
    """Neighbouring days together, at most _RUN of them."""
    run: list[date] = []
    for day in days:
        if run and (day - run[0]).days >= _RUN:
            yield run
            run = []
        run.append(day)
    if run:
        yield run


def _scan(directory: Path, kind: str, schema: pl.Schema, since: date, until: date) -> pl.LazyFrame:
    """Files of one kind in the order of the stream, which is that of their names."""
    return scan(_files(directory, kind, since, until), schema)


def _files(directory: Path, kind: str, since: date, until: date) -> list[Path]:
    days = ((until - since).days + 1) if until >= since else 0
    return [path for at in range(days) for path in sorted((directory / f"day={since + at * _DAY}").glob(f"{kind}-*.parquet"))]
