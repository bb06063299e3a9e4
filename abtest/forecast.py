"""What an experiment could see, told from the days that the ledger holds: as if the last k of them had been the experiment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from abtest.cuped import adjust
from abtest.keyed import by_users
from abtest.metrics import CAPPED
from abtest.plan import Plan
from abtest.power import Baseline, detectable, power_of, units_needed
from abtest.stats import NotComputable
from abtest.tally import Tally, moments_of, per_user
from abtest.units import count, refresh, units, units_by_file
from contracts.errors import BadInput


@dataclass(frozen=True)
class Forecast:
    """One metric after `days` days with `users` in both arms together. detectable: the minimal detectable lift with the plan's
    power; with_past: the same after CUPED; power: to find the plan's least lift; units: users of both arms that it takes."""

    metric: str
    days: int
    users: int
    value: float | NotComputable
    detectable: float | NotComputable
    with_past: float | NotComputable
    power: float | NotComputable
    units: int | NotComputable


def forecast(directory: Path, plan: Plan, days: int, coverage: float = 1.0, domain: str | None = None) -> list[Forecast]:
    """One for each metric of the plan but the capped one. coverage: share of the users that will be exposed, split evenly.
    Raises BadInput where the ledger holds fewer whole days than `days`."""
    refresh(directory)
    last = _last_day(directory)
    held = 0 if last is None else units(directory, last - timedelta(days=days - 1), last).select("day").unique().collect().height
    if last is None or held < days:
        raise BadInput(f"the ledger holds {held} whole days, not {days}", "ask for fewer days, or let it log for longer")
    tally = _as_if(directory, last - timedelta(days=days - 1), last, plan, domain)
    users = round(tally.units * coverage)
    return [_of(tally, metric, days, users, plan) for metric in plan.metrics if metric != CAPPED]


def _of(tally: Tally, metric: str, days: int, users: int, plan: Plan) -> Forecast:
    base = Baseline.of(tally.statistic(metric).moment(), tally.units)
    if isinstance(base, NotComputable) or users < 2:
        why = base if isinstance(base, NotComputable) else NotComputable("fewer than two users")
        return Forecast(metric, days, users, why, why, why, why, why)
    error = base.error(users / 2, users / 2)
    least = plan.least_lift
    unplanned = NotComputable("the plan names no least lift worth finding")
    past: float | NotComputable = NotComputable("the ledger holds no earlier days")
    if tally.history:
        found = adjust(tally.paired(metric), tally.paired(metric))
        past = (
            found
            if isinstance(found, NotComputable)
            else detectable(error * (1 - found.gain) ** 0.5, plan.power, plan.confidence)
        )
    return Forecast(
        metric=metric,
        days=days,
        users=users,
        value=base.value,
        detectable=detectable(error, plan.power, plan.confidence),
        with_past=past,
        power=unplanned if least is None else power_of(least, base.error(users / 2, users / 2, least), plan.confidence),
        units=unplanned if least is None else units_needed(base, least, 0.5, plan.power, plan.confidence),
    )


def _as_if(directory: Path, first: date, last: date, plan: Plan, domain: str | None) -> Tally:
    since, asked = first - timedelta(days=plan.before_days), pl.lit(True) if domain is None else pl.col("domain") == domain
    frames = [frame.filter(asked).with_columns(past=pl.col("day") < first) for frame in units_by_file(directory, since, last)]
    history = count(units(directory, since, last).filter(asked, pl.col("day") < first).head(1)) > 0
    total = None
    for rows in by_users(frames, count(units(directory, since, last))):
        one = Tally(moments_of(per_user(rows, ["user"], None), history))
        total = one if total is None else total + one
    return total or Tally.none()


def _last_day(directory: Path) -> date | None:
    """The last day but one that has any rows: the last is still going on."""
    days = units(directory).select("day").unique().sort("day").collect()["day"].to_list()
    return days[-2] if len(days) > 1 else None
