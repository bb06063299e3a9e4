"""How long a report takes, and how much memory, over a ledger of a stated size:

    python -m loadtests.experiment_report --users 1000000 --events 100000000 --days 10 DIRECTORY

Makes the ledger once (skipped where DIRECTORY has it), then runs in processes of their own: the units of all days, which the
night makes a day at a time, and the report over them. Prints wall and CPU seconds and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from abtest.analyze import report
from abtest.definitions import Definitions, parse_object
from abtest.drain import EXPOSURE, FEEDBACK
from abtest.units import refresh

FIRST = date(2026, 11, 1)
DOMAINS = ("feed", "search", "video", "home")
EVENTS_A_REQUEST = 1 + 2 + 0.2 + 0.02  # an answer, two impressions, clicks, conversions
BATCH = 500_000  # requests made at a time
DEFINITIONS = {
    "ranker": {"rules": [{"variations": [{"recipe": "a"}, {"recipe": "b"}], "meta": [{"key": "control"}, {"key": "challenger"}]}]}
}


def definitions() -> Definitions:
    return parse_object(DEFINITIONS)


def make_ledger(directory: Path, users: int, events: int, days: int, seed: int = 0) -> None:
    """Half of the days before the experiment, so that CUPED has a past to read."""
    rng = np.random.default_rng(seed)
    a_day = round(events / EVENTS_A_REQUEST / days)
    for number in range(days):
        folder = directory / f"day={FIRST + timedelta(days=number)}"
        folder.mkdir(parents=True, exist_ok=True)
        for at, start in enumerate(range(0, a_day, BATCH)):
            size = min(BATCH, a_day - start)
            name = f"{number:015d}.{at:09d}-{number:015d}.{at:09d}.parquet"
            answers, outcomes = _batch(rng, users, number, start, size, experiment=number >= days // 2)
            answers.write_parquet(folder / f"exposure-{name}")
            outcomes.write_parquet(folder / f"feedback-{name}")


def _batch(
    rng: np.random.Generator, users: int, day: int, start: int, size: int, experiment: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    user = rng.integers(0, users, size)
    ms = day * 86_400_000 + np.sort(rng.integers(0, 86_000_000, size))
    ads = rng.integers(0, 50_000, (size, 2))
    base = pl.DataFrame({"user": user, "ms": ms, "row": np.arange(start, start + size), "domain": rng.integers(0, 4, size)})
    arm = pl.when(pl.col("user") % 2 == 0).then(pl.lit("control")).otherwise(pl.lit("challenger"))
    record = pl.struct(pl.lit("ranker").alias("experiment"), arm.alias("arm"), pl.lit("a").alias("recipe"))
    zero = pl.datetime(FIRST.year, FIRST.month, FIRST.day, time_zone="UTC", time_unit="us")
    who = base.select(
        stream_ms=pl.col("ms"),
        stream_seq=pl.lit(0, pl.Int64),
        request_id=pl.format("r{}-{}", pl.lit(day), "row"),
        user_id=pl.format("user-{}", "user"),
        domain=pl.col("domain").replace_strict(dict(enumerate(DOMAINS)), return_dtype=pl.String),
        time=zero + pl.duration(milliseconds="ms"),
        arms=pl.concat_list(record) if experiment else pl.lit(None, EXPOSURE["arms"]),
        first=pl.Series(ads[:, 0]),
        second=pl.Series(ads[:, 1] + 50_000),
    )

    shown = pl.Series("ad", (ads + np.array([0, 50_000])).ravel()).to_frame().select(
        pl.struct(
            pl.format("a{}", "ad").alias("ad_id"), (pl.int_range(pl.len()) % 2).cast(pl.Int32).alias("position"),
            pl.lit(0.1).alias("p_click"), pl.lit(0.2).alias("rank_score"), pl.lit(1.5).alias("bid"),
            pl.lit(None, pl.Float64).alias("propensity"),
        )
    )  # fmt: skip
    answers = who.with_columns(
        arms=pl.col("arms").fill_null(pl.lit([], EXPOSURE["arms"])),
        bundle_id=pl.lit("b1"), recipe=pl.lit("a"), context=pl.lit("{}"), ads=shown.to_series().reshape((size, 2)).arr.to_list(),
        degraded=pl.lit([], pl.List(pl.String)), excluded=pl.lit([], pl.List(pl.String)),
    ).select(pl.col(name).cast(kind) for name, kind in EXPOSURE.items())  # fmt: skip
    chosen = [("impression", "first", np.arange(size)), ("impression", "second", np.arange(size))]
    chosen += [(kind, "first", np.flatnonzero(rng.random(size) < rate)) for kind, rate in (("click", 0.2), ("conversion", 0.02))]
    outcomes = pl.concat(
        who[rows].select(
            "stream_ms", "stream_seq", "request_id", "user_id", "domain", "time",
            event_id=pl.format("{}-{}-{}", "request_id", pl.lit(kind), pl.lit(column)),
            type=pl.lit(kind), ad_id=pl.format("a{}", column), position=pl.lit(0, pl.Int32),
            value=pl.lit(None, pl.Float64), received=pl.col("time") + pl.duration(seconds=30),
        ).with_columns(time=pl.col("time").dt.epoch("s").cast(pl.Float64))
        for kind, column, rows in chosen
    ).sort("stream_ms")  # fmt: skip
    return answers, outcomes.select(pl.col(name).cast(kind) for name, kind in FEEDBACK.items())


def _make_units(directory: Path) -> None:
    refresh(directory)


def _report(directory: Path) -> None:
    found = report(directory, definitions(), "ranker")
    assert found.overall.arms[0].units > 0


def measured(work: Callable[[Path], None], directory: Path) -> dict[str, float]:
    """In a process of its own: wall_s, cpu_s, peak_mib."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (work, directory))


def _timed(work: Callable[[Path], None], directory: Path) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work(directory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--days", type=int, default=10)
    given = parser.parse_args()
    ledger = given.directory / "events"
    if not ledger.exists():
        make_ledger(ledger, given.users, given.events, given.days)
    for name, work in (("units", _make_units), ("report", _report)):
        print(json.dumps({"step": name, **{key: round(value, 1) for key, value in measured(work, ledger).items()}}), flush=True)


if __name__ == "__main__":
    main()
