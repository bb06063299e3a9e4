"""Which rows train, which choose, which judge. Time first: validation and test follow training in time."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import NamedTuple

import polars as pl

from contracts.errors import BadInput

SPLIT_NAMES = ("train", "valid", "test")
_TEST_DAYS = 0.2  # share of the days
_VALID_DAYS = 0.125  # share of the days before the test
_SEED = 20_240_213


class Splits(NamedTuple):
    train: pl.LazyFrame
    valid: pl.LazyFrame
    test: pl.LazyFrame


class TimeSplit:
    """Splits canonical events at the midnights of one timezone."""

    def __init__(self, events: pl.LazyFrame, timezone: str) -> None:
        self.events = events
        self.timezone = timezone

    @cached_property
    def days(self) -> list[date]:
        """Every local day with an event, in order."""
        day = pl.col("timestamp").dt.convert_time_zone(self.timezone).dt.date()
        return sorted(self.events.select(day.unique()).collect(engine="streaming")["timestamp"].drop_nulls())

    def cutoff(self, test_from: str | int | None) -> datetime:
        if test_from is not None:
            cutoff = parse_time(test_from, self.timezone)
            self._require_both_sides(cutoff, test_from)
            return cutoff
        if len(self.days) < 2:
            return self._moment(1 - _TEST_DAYS)
        return self._midnight(self.days[-_share(_TEST_DAYS, len(self.days))])

    def split(self, cutoff: datetime) -> Splits:
        valid_from = self._valid_from(cutoff)
        time = pl.col("timestamp")
        return Splits(
            self.events.filter(time < valid_from),
            self.events.filter((time >= valid_from) & (time < cutoff)),
            self.events.filter(time >= cutoff),
        )

    def _valid_from(self, cutoff: datetime) -> datetime:
        before = [one for one in self.days if self._midnight(one) < cutoff]
        if len(before) < 2:
            return self._moment(0.9, before=cutoff)
        return self._midnight(before[-_share(_VALID_DAYS, len(before))])

    def _midnight(self, day: date) -> datetime:
        return _to_utc(datetime(day.year, day.month, day.day), self.timezone)

    def _moment(self, share: float, before: datetime | None = None) -> datetime:
        """The time by which `share` of the events (before `before`) have happened: for logs too short to cut by days."""
        events = self.events.filter(pl.col("timestamp") < before) if before else self.events
        time = events.select(pl.col("timestamp").drop_nulls().sort()).collect(engine="streaming")["timestamp"]
        if not len(time):
            raise BadInput("there are no events to split by time", "check that events/*.parquet hold rows with a timestamp")
        moment: datetime = time.dt.replace_time_zone(None)[math.floor(share * len(time))]
        return moment.replace(tzinfo=UTC)

    def _require_both_sides(self, cutoff: datetime, asked: str | int) -> None:
        time = pl.col("timestamp").dt.replace_time_zone(None)
        bounds = self.events.select(time.min().alias("first"), time.max().alias("last")).collect(engine="streaming")
        if bounds["first"][0] is None:
            raise BadInput("there are no events to split by time", "check that events/*.parquet hold rows with a timestamp")
        first, last = bounds["first"][0].replace(tzinfo=UTC), bounds["last"][0].replace(tzinfo=UTC)
        if not first < cutoff <= last:
            raise BadInput(
                f"test_from {asked} leaves no events {'for the test' if cutoff > last else 'to train on'}",
                f"the events run from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
            )


def by_file(events: pl.LazyFrame, present: set[str | None]) -> Splits:
    """Splits fixed by file names."""
    parts = {name: events.filter(pl.col("split") == name) for name in SPLIT_NAMES}
    train, valid, test = (parts[name] for name in SPLIT_NAMES)
    if "train" not in present:
        raise BadInput("no event file's name starts with train", "name the training events events/train*.parquet")
    if "test" in present and "valid" in present:
        return Splits(train, valid, test)
    if "test" not in present and "valid" not in present:
        return by_hash(train)
    held_out = test if "test" in present else valid
    tenth = _tenth()
    return Splits(train.filter(tenth != 0), train.filter(tenth == 0), held_out)


def by_hash(events: pl.LazyFrame) -> Splits:
    """80/10/10, the same for the same rows in any order."""
    tenth = _tenth()
    return Splits(events.filter(tenth > 1), events.filter(tenth == 1), events.filter(tenth == 0))


def parse_time(value: str | int, timezone: str) -> datetime:
    """ISO date or date-time (the dataset's timezone unless it names an offset) or epoch milliseconds -> UTC."""
    text = str(value).strip()
    try:
        if isinstance(value, int) or (text.lstrip("-").isdigit() and len(text) > 8):
            return datetime.fromtimestamp(int(text) / 1000, tz=UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise BadInput(f"test_from {value!r} is no time", "write an ISO date such as 2022-05-03, or epoch milliseconds") from None
    return moment.astimezone(UTC) if moment.tzinfo else _to_utc(moment, timezone)


def _to_utc(moment: datetime, timezone: str) -> datetime:
    """Polars carries its own timezone tables, so that a machine without any has the same days."""
    local = pl.Series([moment]).dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    utc: datetime | None = local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)[0]
    if utc is None:  # a clock moved forward at midnight: that day begins an hour later
        return _to_utc(moment + timedelta(hours=1), timezone)
    return utc.replace(tzinfo=UTC)


def _tenth() -> pl.Expr:
    return pl.concat_str("user_id", "ad_id", "domain", separator="\0").hash(seed=_SEED) % 10


def _share(part: float, count: int) -> int:
    return min(count - 1, max(1, round(part * count)))
