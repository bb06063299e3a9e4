"""Units into statistics: one tally for each arm, overall and in each domain, added up over parts of the users."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from abtest.cuped import Paired
from abtest.metrics import CAPPED, COLUMNS, METRICS
from abtest.moments import Moments
from abtest.plan import Cap, Plan
from abtest.stats import Counted, Missing, NotComputable
from abtest.units import count, part_of, parts_for, refresh, units

_ROWS_A_PART = 2_000_000  # rows of units held at a time, about 300 MiB
_READ = ("requests", "impressions", "clicks", "conversions", "revenue")
ALL = ""
"""The slice of all domains; no domain is called so."""


@dataclass(frozen=True, eq=False)
class Tally:
    """One arm's users in one slice: the moments of COLUMNS, twice where the days before the start are known. uncapped: why
    there is no cap here, where one was planned."""

    moments: Moments
    uncapped: str | None = None

    @classmethod
    def none(cls) -> Tally:
        return cls(Moments.of(np.empty((len(COLUMNS), 0))))

    @property
    def units(self) -> int:
        return self.moments.n

    @property
    def history(self) -> bool:
        return len(self.moments.mean) > len(COLUMNS)

    def sum(self, column: str) -> float:
        return self.moments.n * float(self.moments.mean[COLUMNS.index(column)])

    def statistic(self, metric: str) -> Counted:
        if self.uncapped is not None and metric == CAPPED:
            return Missing(self.uncapped)
        return METRICS[metric].statistic(self.moments)

    def paired(self, metric: str) -> Paired:
        return METRICS[metric].paired(self.moments)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.moments + other.moments, self.uncapped)


@dataclass
class Tallies:
    """by_slice: (domain or ALL, arm) -> Tally. history: does the ledger hold days before the start?
    crossed: users seen in two arms, who are in no tally. unknown_arms: arm -> users,
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
    start = cast(date, met["day"].min())
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
        _count(found, rows.filter(now), rows.filter(past), arms, caps)
    return found


def _count(found: Tallies, now: pl.DataFrame, past: pl.DataFrame, arms: Sequence[str], caps: _Caps | None) -> None:
    """Add the users of one part."""
    met = now.group_by("user_id").agg(pl.col("arm").n_unique())
    crossed = met.filter(pl.col("arm") > 1)
    found.crossed += len(crossed)
    unknown = now.filter(~pl.col("arm").is_in(arms)).unique(["user_id", "arm"])
    found.unknown_arms.update(dict(unknown.group_by("arm").len().iter_rows()))
    now = now.join(crossed, on="user_id", how="anti").filter(pl.col("arm").is_in(arms))
    for day, arm, users in now.group_by("day", "arm").agg(pl.col("user_id").n_unique()).iter_rows():
        found.units_by_day.setdefault(day, Counter())[arm] += users
    past = past.join(now.select("user_id").unique(), on="user_id", how="semi").drop("arm")
    for domain, rows, before in _slices(now, past):
        cap = caps.of(domain) if caps else None
        users = per_user(rows, ["user_id", "arm"], cap)
        if found.history:
            users = with_past(users, per_user(before, ["user_id"], cap))
        for (arm,), mine in users.partition_by("arm", as_dict=True).items():
            moments = moments_of(mine, found.history)
            one = Tally(moments, cap.reason if isinstance(cap, NotComputable) else None)
            key = (domain, str(arm))
            found.by_slice[key] = found.by_slice[key] + one if key in found.by_slice else one


def _slices(now: pl.DataFrame, past: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    yield ALL, now, past
    befores = past.partition_by("domain", as_dict=True)
    for (domain,), rows in now.partition_by("domain", as_dict=True).items():
        yield str(domain), rows, befores.get((domain,), past.clear())


def per_user(rows: pl.DataFrame, key: list[str], cap: float | NotComputable | None) -> pl.DataFrame:
    """COLUMNS of each user, summed over the days."""
    if isinstance(cap, float):
        rows = rows.group_by(*key, "day").agg(pl.col(_READ).sum())
    capped = pl.col("revenue").clip(upper_bound=cap) if isinstance(cap, float) else pl.col("revenue")
    return rows.group_by(key).agg(pl.col(_READ).sum(), capped_revenue=capped.sum(), converted=pl.col("conversions").sum() > 0)


def with_past(users: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """users: COLUMNS by user; before: the same before the start, of those that were there."""
    past = before.rename({name: f"before_{name}" for name in COLUMNS})
    return users.join(past, on="user_id", how="left").with_columns(pl.col("^before_.*$").fill_null(0))


def moments_of(users: pl.DataFrame, history: bool) -> Moments:
    names = [*COLUMNS, *(f"before_{name}" for name in COLUMNS if history)]
    return Moments.of(users.select(pl.col(names).cast(pl.Float64)).to_numpy().T)


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
