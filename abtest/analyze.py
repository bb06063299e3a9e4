"""Was it better? Per arm, overall and in each domain: every metric with its interval, the lifts three ways, the split's health.

The unit is the user, because users are what was randomised. A user counts as exposed once per experiment and arm, from the
first exposure on, whether or not anything came of it. A user seen in two arms is counted, reported and left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

from abtest.compare import Lift, compare
from abtest.definitions import Definitions, Rule, interleaved, recipe_shown
from abtest.estimate import Result, interval, quantile
from abtest.guardrails import Guardrail, judge
from abtest.ledger import JoinReport
from abtest.metrics import METRICS
from abtest.multiplicity import holm
from abtest.plan import Plan
from abtest.power import days_to_decision
from abtest.sequential import half_width
from abtest.srm import Diagnosis, SrmCheck, diagnose, srm
from abtest.stats import NotComputable
from abtest.tally import ALL, Tallies, Tally, tally
from abtest.units import join_counts


@dataclass(frozen=True)
class ArmReport:
    """One arm in one slice. values and lifts by metric; lifts are relative to the control (a fraction), none for itself.
    guardrails: judged overall, not by domain; interleaves: two recipes answer there, so that there is none to promote."""

    arm: str
    recipe: str | None
    units: int
    requests: int
    impressions: int
    clicks: int
    conversions: int
    revenue: float
    values: dict[str, Result]
    lifts: dict[str, Lift]
    guardrails: tuple[Guardrail, ...] = ()
    interleaves: bool = False


@dataclass(frozen=True)
class Slice:
    """All traffic, or one domain's. arms in the definition's order, the control first."""

    arms: list[ArmReport]
    srm: SrmCheck | NotComputable

    def arm(self, name: str) -> ArmReport:
        return next(one for one in self.arms if one.arm == name)


@dataclass(frozen=True)
class ExperimentReport:
    """crossed_units: users seen in two arms (left out); unknown_arms: users in arms that the definition does not have.
    start: the first day with an exposure, None without any; days: of the ledger with an exposure since `since`.
    days_left: per challenger, days until the plan's least lift of the primary metric would be found.
    cap: what a user's revenue in a day counts at most. exposed: those days, in order."""

    experiment: str
    control: str
    plan: Plan
    overall: Slice
    domains: dict[str, Slice]
    crossed_units: int
    unknown_arms: dict[str, int]
    join: JoinReport
    split: Diagnosis
    start: date | None
    days: int
    days_left: dict[str, float | NotComputable]
    cap: float | NotComputable | None
    exposed: tuple[date, ...] = ()


def report(
    directory: Path, definitions: Definitions, experiment: str, plan: Plan | None = None,
    since: date | None = None, until: date | None = None,
) -> ExperimentReport:  # fmt: skip
    """Read the ledger's days since .. until, from the units of its days, which are made where they are missing. since: the
    first whole day of the experiment's present weights, for the split is checked against them. Raises BadInput for an
    experiment that is not defined."""
    rule = definitions.experiment(experiment)
    plan = plan or Plan()
    found = tally(directory, experiment, rule.arms, plan, since, until)
    parts = {domain: _slice(found, domain, rule, plan) for domain in (ALL, *found.domains)}
    corrected = _corrected(parts, plan)
    overall = corrected.pop(ALL)
    weights = _weights(rule)
    days = len(found.units_by_day)
    return ExperimentReport(
        experiment=experiment,
        control=rule.arm(0),
        plan=plan,
        overall=overall,
        domains=corrected,
        crossed_units=found.crossed,
        unknown_arms=found.unknown_arms,
        join=join_counts(directory, since, until),
        split=diagnose({name: _units(part) for name, part in corrected.items()}, found.units_by_day, weights),
        start=found.start,
        days=days,
        days_left=_days_left(overall, plan, days),
        cap=found.cap,
        exposed=tuple(sorted(found.units_by_day)),
    )


def _slice(found: Tallies, domain: str, rule: Rule, plan: Plan) -> Slice:
    nobody = Tally.none()
    tallies = {arm: found.by_slice.get((domain, arm), nobody) for arm in rule.arms}
    control = tallies[rule.arm(0)]
    arms = [_arm(rule, index, tallies[arm], control, plan, overall=domain == ALL) for index, arm in enumerate(rule.arms)]
    return Slice(arms, srm({one.arm: one.units for one in arms}, _weights(rule)))


def _arm(rule: Rule, index: int, mine: Tally, control: Tally, plan: Plan, overall: bool) -> ArmReport:
    value = rule.variations[index]
    lifts = {name: compare(mine, control, name, plan) for name in plan.metrics} if index else {}
    return ArmReport(
        arm=rule.arm(index),
        recipe=recipe_shown(value),
        units=mine.units,
        requests=round(mine.sum("requests")),
        impressions=round(mine.sum("impressions")),
        clicks=round(mine.sum("clicks")),
        conversions=round(mine.sum("conversions")),
        revenue=mine.sum("revenue"),
        values={name: interval(mine.statistic(name), plan.confidence) for name in plan.metrics},
        lifts=lifts,
        guardrails=tuple(
            judge(name, margin, lifts[name].judged, METRICS[name].better) for name, margin in plan.guardrails.items()
        )
        if index and overall
        else (),
        interleaves=interleaved(value) is not None,
    )


def _corrected(slices: Mapping[str, Slice], plan: Plan) -> dict[str, Slice]:
    """Two families by Holm: the primary metric over all domains, by challenger, which is what the experiment asks; and all
    other lifts, metrics x domains x challengers, which are what it shows on the way."""
    asked: dict[tuple[str, str, str], float] = {}
    shown: dict[tuple[str, str, str], float] = {}
    for domain, part in slices.items():
        for arm in part.arms:
            for name, lift in arm.lifts.items():
                if lift.p_value is not None:
                    family = asked if (domain, name) == (ALL, plan.primary) else shown
                    family[domain, arm.arm, name] = lift.p_value
    adjusted = holm(asked) | holm(shown)
    return {
        domain: replace(
            part,
            arms=[
                replace(
                    arm,
                    lifts={name: replace(lift, holm_p=adjusted.get((domain, arm.arm, name))) for name, lift in arm.lifts.items()},
                )
                for arm in part.arms
            ],
        )
        for domain, part in slices.items()
    }


def _days_left(overall: Slice, plan: Plan, days: int) -> dict[str, float | NotComputable]:
    """By challenger. The always-valid interval narrows with users as well as with variance."""
    control = overall.arms[0].units
    left = {}
    for arm in overall.arms[1:]:
        units = arm.units + control
        width = partial(_half_width, plan, units) if units else None
        lift = arm.lifts[plan.primary].judged
        left[arm.arm] = days_to_decision(lift, days, plan.least_lift, width, plan.power) if width else NotComputable("no units")
    return left


def _half_width(plan: Plan, units: int, variance: float, growth: float) -> float:
    if plan.sequential:
        return half_width(variance, units * growth, plan.planned_units, plan.confidence)
    return quantile(math.inf, plan.confidence) * math.sqrt(variance)


def _weights(rule: Rule) -> dict[str, float]:
    return {arm: end - start for arm, (start, end) in zip(rule.arms, rule.spans(), strict=True)}


def _units(part: Slice) -> dict[str, int]:
    return {arm.arm: arm.units for arm in part.arms}


def slices(one: ExperimentReport) -> Iterable[tuple[str, Slice]]:
    """("all domains", overall), then each domain."""
    yield "all domains", one.overall
    yield from one.domains.items()
