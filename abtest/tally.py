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
from abtest.keyed import by_users
from abtest.metrics import CAPPED, COLUMNS, METRICS
from abtest.moments import Moments
from abtest.plan import Cap, Plan
from abtest.stats import Counted, Missing, NotComputable
from abtest.units import count, refresh, units, units_by_file

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
    first = start - timedelta(days=plan.before_days)
    names = [*arms, *sorted(set(met["arm"]) - set(arms))]
    code, past = _arm_code(met, names), pl.col("day") < start
    frames = [frame.with_columns(code, past=past).drop("arms") for frame in units_by_file(directory, first, until)]
    before, rows = units(directory, first, until).filter(past), count(units(directory, first, until))
    caps = _caps([frame.filter("past") for frame in frames], rows, plan.cap)
    history = bool(plan.before_days) and count(before.head(1)) > 0
    found = Tallies(start=start, history=history, cap=caps.of(ALL) if caps else None)
    now = (pl.col("day") >= max(start, since or start)) & pl.col("arm").is_not_null()
    for part in by_users([frame.filter(pl.col("past") | now) for frame in frames], rows):
        _count(found, part, names, len(arms), caps)
    return found


def _count(found: Tallies, rows: pl.DataFrame, names: Sequence[str], known: int, caps: _Caps | None) -> None:
    """Add the users of one part. rows: of `by_users`, arm: a row of names, of which the first `known` are the definition's."""
    now = rows.filter(~pl.col("past"))
    met = now.group_by("user").agg(pl.col("arm").min(), other=pl.col("arm").max())
    found.crossed += len(met.filter(pl.col("arm") != pl.col("other")))
    unknown = now.filter(pl.col("arm") >= known).unique(["user", "arm"])
    found.unknown_arms.update({names[arm]: users for arm, users in unknown.group_by("arm").len().iter_rows()})
    settled = met.filter((pl.col("arm") == pl.col("other")) & (pl.col("arm") < known)).select("user", "arm")
    rows = rows.drop("arm").join(settled, on="user")
    seen = rows.filter(~pl.col("past")).group_by("day", "arm").agg(pl.col("user").n_unique())
    for day, arm, users in seen.iter_rows():
        found.units_by_day.setdefault(day, Counter())[names[arm]] += users
    for domain, its in _slices(rows):
        cap = caps.of(domain) if caps else None
        for (arm,), mine in per_user(its, ["user", "arm"], cap).partition_by("arm", as_dict=True).items():
            one = Tally(moments_of(mine, found.history), cap.reason if isinstance(cap, NotComputable) else None)
            key = (domain, names[cast(int, arm)])
            found.by_slice[key] = found.by_slice[key] + one if key in found.by_slice else one


def _slices(rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    yield ALL, rows
    for (domain,), its in rows.partition_by("domain", as_dict=True).items():
        yield str(domain), its


def per_user(rows: pl.DataFrame, key: list[str], cap: float | NotComputable | None) -> pl.DataFrame:
    """COLUMNS of each user, summed over the days, and before_COLUMNS over those that are `past`. key: columns, of which a user
    has one set. Who was there in the past only is left out."""
    if isinstance(cap, float):
        rows = rows.group_by(*key, "day", "past").agg(pl.col(_READ).sum())
    capped = pl.col("revenue").clip(upper_bound=cap) if isinstance(cap, float) else pl.col("revenue")
    rows = rows.select(*key, *_READ, "past", capped_revenue=capped)
    summed = [*_READ, "capped_revenue"]
    return (
        rows.select(
            *key,
            ~pl.col("past").alias("met"),
            *(pl.when(~pl.col("past")).then(name).otherwise(0).alias(name) for name in summed),
            *(pl.when("past").then(name).otherwise(0).alias(f"before_{name}") for name in summed),
        )
        .group_by(key)
        .agg(pl.col("met").any(), pl.col(summed).sum(), pl.col([f"before_{name}" for name in summed]).sum())
        .filter("met")
        .with_columns(converted=pl.col("conversions") > 0, before_converted=pl.col("before_conversions") > 0)
    )


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


def _caps(past: Sequence[pl.LazyFrame], rows: int, cap: Cap | None) -> _Caps | None:
    """Percentiles of the positive revenues of users and days, over all domains and in each. rows: at most how many."""
    if cap is None:
        return None
    if cap.percentile is None:
        return _Caps(cap.value, {})
    revenues: dict[str, list[NDArray[np.float64]]] = {}
    paid = [frame.filter(pl.col("revenue") != 0).select("day", "user_id", "domain", "revenue") for frame in past]
    for part in by_users(paid, rows):
        for domain, its in _slices(part):
            by_day = its.group_by("day", "user").agg(pl.col("revenue").sum()).filter(pl.col("revenue") > 0)
            revenues.setdefault(domain, []).append(by_day["revenue"].to_numpy())
    whole = {domain: np.concatenate(found) for domain, found in revenues.items()}
    return _Caps(None, {domain: float(np.percentile(found, cap.percentile)) for domain, found in whole.items() if found.size})


def _arm_code(met: pl.DataFrame, names: Sequence[str]) -> pl.Expr:
    """The row in `names` of the arm, null outside the experiment. met: of _arm_of."""
    arm = met.select("arms", pl.col("arm").replace_strict(names, range(len(names)), return_dtype=pl.UInt16)).unique()
    return pl.col("arms").replace_strict(arm["arms"], arm["arm"], default=None, return_dtype=pl.UInt16).alias("arm")


def _arm_of(met: pl.DataFrame, experiment: str) -> pl.DataFrame:
    """Rows (day, arms) with the arm of one experiment; those outside it are dropped. A unit is in one arm at a time."""
    arm: dict[str, str] = {}
    for lines in met["arms"].unique():
        for record in map(json.loads, lines.splitlines()):
            if record["experiment"] == experiment:
                arm[lines] = record["arm"]
    return met.with_columns(arm=pl.col("arms").replace_strict(arm, default=None, return_dtype=pl.String)).drop_nulls("arm")
