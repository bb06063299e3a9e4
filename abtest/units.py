"""The ledger a day and user at a time: what reports read, so that none of them touches events again.

    <ledger>-units/day=2026-11-22/<n>.parquet     UNITS, rows of the users of one part
    <ledger>-units/day=2026-11-22/_made.json      from which files of the ledger, and where the day's events went

day: of the exposure. An outcome comes up to WINDOW later, so a day is made again while files that may hold its outcomes
arrive; then it stays. Users are worked on in parts, by a hash of their id, which bounds the memory whatever the ledger's size.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from abtest.drain import EXPOSURE, FEEDBACK, scan
from abtest.keyed import Cells, split
from abtest.ledger import WINDOW, JoinReport
from abtest.unit_rows import COUNTS, UNITS, unit_rows
from contracts.files import exclusive, read_json, replace_dir, write_json

_MADE = "_made.json"
_ROWS_A_FILE = 1_000_000  # of units, over the days made together
_RUN = 14  # days made together, which share the reading of their outcomes
_DAY = timedelta(days=1)


def units(directory: Path, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
    """UNITS of the ledger's days since .. until (inclusive) as `refresh` left them."""
    files = _unit_files(directory, since, until)
    return pl.scan_parquet(files, hive_partitioning=False, glob=False) if files else pl.LazyFrame(schema=UNITS)


def units_by_file(directory: Path, since: date | None = None, until: date | None = None) -> list[pl.LazyFrame]:
    """The same, a frame a file, for what must not hold many files at once."""
    return [pl.scan_parquet(path, hive_partitioning=False, glob=False) for path in _unit_files(directory, since, until)]


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


def count(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def join_counts(directory: Path, since: date | None = None, until: date | None = None) -> JoinReport:
    """Where the events of those days went, from the counts that lie beside their units. Events of exposures before `since`
    count as orphans; so do the repeats of orphans."""
    days = [day for day in _days(_place(directory)) if (since is None or day >= since) and (until is None or day <= until)]
    made = [_made(_place(directory) / f"day={day}") or {} for day in days]
    total = {name: sum(one.get(name, 0) for one in made) for name in COUNTS}
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
    cells = Cells.of(answers)
    counts: dict[date, Counter[str]] = {day: Counter() for day in run}

    def made() -> Iterator[pl.DataFrame]:
        for part in split(answers, outcomes, count(answers) + count(outcomes), _fresh(place / "making-parts", undo)):
            rows, found = unit_rows(*part, cells, run)
            for day, its in found.items():
                counts[day].update(its)
            yield rows

    with ExitStack() as undo:
        places = {day: _fresh(place / f"making-{day}", undo) for day in run}
        for number, rows in enumerate(_gathered(made(), _ROWS_A_FILE)):
            for (day,), its in rows.partition_by("day", as_dict=True).items():
                its.write_parquet(places[day] / f"{number:06d}.parquet")
        for day, path in places.items():
            write_json(path / _MADE, {"inputs": inputs[day], **counts[day]})
            replace_dir(path, place / f"day={day}")


def _gathered(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Neighbours together until they have so many rows."""
    waiting: list[pl.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= rows:
            yield pl.concat(waiting)
            waiting = []
    if waiting:
        yield pl.concat(waiting)


def _unit_files(directory: Path, since: date | None, until: date | None) -> list[Path]:
    days = [day for day in _days(_place(directory)) if (since is None or day >= since) and (until is None or day <= until)]
    return [path for day in days for path in sorted((_place(directory) / f"day={day}").glob("*.parquet"))]


def _place(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}-units")


def _fresh(path: Path, undo: ExitStack) -> Path:
    """An empty folder for what is being made; what a dying process left there goes."""
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
