"""Units into statistics: one tally for each arm, overall and in each domain, added up over parts of the users."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from abtest.cuped import Paired
from abtest.metrics import CAPPED, METRICS, SUMS, Columns
from abtest.plan import Cap, Plan
from abtest.stats import Counted, Missing, NotComputable
from abtest.units import count, part_of, parts_for, refresh, units

_ROWS_A_PART = 2_000_000  # rows of units held at a time, about 300 MiB
_READ = ("requests", "impressions", "clicks", "conversions", "revenue")
ALL = ""
"""The slice of all domains; no domain is called so."""


@dataclass(frozen=True)
class Tally:
    """One arm's users in one slice. past: by metric the statistics with the days before beside them; empty where the ledger
    has none."""

    units: int
    sums: dict[str, float]
    statistics: dict[str, Counted]
    past: dict[str, Paired]

    @classmethod
    def of(cls, users: Columns, metrics: Sequence[str], past: bool) -> Tally:
        """users: by column (n,)"""
        return cls(
            units=len(users["requests"]),
            sums={name: float(users[name].sum()) for name in _READ},
            statistics={name: METRICS[name].statistic(users) for name in metrics},
            past={name: METRICS[name].paired(users) for name in metrics} if past else {},
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.units + other.units,
            {name: value + other.sums[name] for name, value in self.sums.items()},
            {name: _added(one, other.statistics[name]) for name, one in self.statistics.items()},
            {name: one + other.past[name] for name, one in self.past.items()},
        )


@dataclass
class Tallies:
    """by_slice: (domain or ALL, arm) -> Tally. history: does the ledger hold days before the start? crossed: users seen in two arms, who are in no tally. unknown_arms: arm -> users,
    of arms that the definition does not have. units_by_day: day -> arm -> users seen that day. cap: of a user's revenue in one
    day over all domains, None where the plan has none."""

    start: date | None = None
    by_slice: dict[tuple[str, str], Tally] = field(default_factory=dict)
    history: bool = False
    crossed: int = 0
    unknown_arms: Counter[str] = field(default_factory=Counter)
    units_by_day: dict[date, Counter[str]] = field(default_factory=dict)
    cap: float | NotComputable | None = None

    @property
    def domains(self) -> list[str]:
        return sorted({domain for domain, _ in self.by_slice} - {ALL})


def tally(
    directory: Path, experiment: str, arms: Sequence[str], plan: Plan, since: date | None = None, until: date | None = None,
) -> Tallies:  # fmt: skip
    """Refresh the units and count the users that met the experiment in since .. until. The past is the plan's before_days
    before the first day with an exposure at all, whatever `since` is."""
    refresh(directory)
    met = _arm_of(units(directory, None, until).select("day", "arms").unique().collect(engine="streaming"), experiment)
    if met.is_empty():
        return Tallies()
    start: date = met["day"].min()  # type: ignore[assignment]
    frame = units(directory, start - timedelta(days=plan.before_days), until).join(
        met.select("arms", "arm").unique().lazy(), on="arms", how="left"
    )
    parts = parts_for(count(units(directory, start - timedelta(days=plan.before_days), until)), _ROWS_A_PART)
    past, now = pl.col("day") < start, (pl.col("day") >= max(start, since or start)) & pl.col("arm").is_not_null()
    caps = _caps(frame.filter(past), plan.cap, parts)
    history = bool(plan.before_days) and count(frame.filter(past).head(1)) > 0
    found = Tallies(start=start, history=history, cap=caps.of(ALL) if caps else None)
    for part in range(parts):
        rows = part_of(frame, part, parts).filter(past | now).collect(engine="streaming")
        _count(found, rows.filter(now), rows.filter(past), arms, plan.metrics, caps)
    return found


def _count(found: Tallies, now: pl.DataFrame, past: pl.DataFrame, arms: Sequence[str], metrics: Sequence[str], caps: _Caps | None) -> None:
    """Add the users of one part."""
    per_user = now.group_by("user_id").agg(pl.col("arm").n_unique())
    crossed = per_user.filter(pl.col("arm") > 1)
    found.crossed += len(crossed)
    unknown = now.filter(~pl.col("arm").is_in(arms)).unique(["user_id", "arm"])
    found.unknown_arms.update(dict(unknown.group_by("arm").len().iter_rows()))
    now = now.join(crossed, on="user_id", how="anti").filter(pl.col("arm").is_in(arms))
    for day, arm, users in now.group_by("day", "arm").agg(pl.col("user_id").n_unique()).iter_rows():
        found.units_by_day.setdefault(day, Counter())[arm] += users
    past = past.join(now.select("user_id").unique(), on="user_id", how="semi").drop("arm")
    for domain, rows, before in _slices(now, past):
        cap = caps.of(domain) if caps else None
        users = _per_user(rows, ["user_id", "arm"], cap)
        if found.history:
            before_users = _per_user(before, ["user_id"], cap).rename({name: f"before_{name}" for name in SUMS})
            users = users.join(before_users, on="user_id", how="left").with_columns(pl.col("^before_.*$").fill_null(0))
        for (arm,), mine in users.partition_by("arm", as_dict=True).items():
            columns = {name: mine[name].cast(pl.Float64).to_numpy() for name in mine.columns if name not in ("user_id", "arm")}
            one = Tally.of(columns, metrics, found.history)
            if isinstance(cap, NotComputable):
                one.statistics[CAPPED] = Missing(cap.reason)
            key = (domain, str(arm))
            found.by_slice[key] = found.by_slice[key] + one if key in found.by_slice else one


def _slices(now: pl.DataFrame, past: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    yield ALL, now, past
    befores = past.partition_by("domain", as_dict=True)
    for (domain,), rows in now.partition_by("domain", as_dict=True).items():
        yield str(domain), rows, befores.get((domain,), past.clear())


def _per_user(rows: pl.DataFrame, key: list[str], cap: float | NotComputable | None) -> pl.DataFrame:
    """Sums of each user's days, with the capped revenue beside them."""
    limit = cap if isinstance(cap, float) else None
    if limit is None:
        return rows.group_by(key).agg(pl.col(_READ).sum(), capped_revenue=pl.col("revenue").sum())
    days = rows.group_by(*key, "day").agg(pl.col(_READ).sum())
    return days.group_by(key).agg(pl.col(_READ).sum(), capped_revenue=pl.col("revenue").clip(upper_bound=limit).sum())


@dataclass(frozen=True)
class _Caps:
    """value: the same everywhere; else each slice's own."""

    value: float | None
    by_slice: Mapping[str, float]

    def of(self, domain: str) -> float | NotComputable:
        if self.value is not None:
            return self.value
        return self.by_slice.get(domain, NotComputable("the cap is a percentile of revenue before the start, and there was none"))


def _caps(past: pl.LazyFrame, cap: Cap | None, parts: int) -> _Caps | None:
    """Percentiles of the positive revenues of users and days, over all domains and in each."""
    if cap is None:
        return None
    if cap.percentile is None:
        return _Caps(cap.value, {})
    revenues: dict[str, list[NDArray[np.float64]]] = {}
    for part in range(parts):
        paid = part_of(past, part, parts).filter(pl.col("revenue") != 0).select("day", "user_id", "domain", "revenue")
        rows = paid.collect(engine="streaming")
        for domain, mine, _ in _slices(rows, rows.clear()):
            by_day = mine.group_by("day", "user_id").agg(pl.col("revenue").sum()).filter(pl.col("revenue") > 0)
            revenues.setdefault(domain, []).append(by_day["revenue"].to_numpy())
    whole = {domain: np.concatenate(found) for domain, found in revenues.items()}
    return _Caps(None, {domain: float(np.percentile(found, cap.percentile)) for domain, found in whole.items() if found.size})


def _arm_of(met: pl.DataFrame, experiment: str) -> pl.DataFrame:
    """Rows (day, arms) with the arm of one experiment; those outside it are dropped. A unit is in one arm at a time."""
    arm: dict[str, str] = {}
    for lines in met["arms"].unique():
        for record in map(json.loads, lines.splitlines()):
            if record["experiment"] == experiment:
                arm[lines] = record["arm"]
    return met.with_columns(arm=pl.col("arms").replace_strict(arm, default=None, return_dtype=pl.String)).drop_nulls("arm")


def _added(one: Counted, other: Counted) -> Counted:
    """Statistics of the same metric are of one kind."""
    if isinstance(one, Missing) or isinstance(other, Missing):
        return one if isinstance(one, Missing) else other
    if type(one) is not type(other):
        raise TypeError(f"cannot add {type(one).__name__} and {type(other).__name__}")
    return one + other  # type: ignore[operator]
