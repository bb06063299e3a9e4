"""Promote, hold or roll back: a pure function of a report, so that the nightly run and a person see the same reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abtest.analyze import ArmReport, ExperimentReport, Slice
from abtest.stats import Estimate, NotComputable

Action = Literal["promote", "hold", "roll_back"]


@dataclass(frozen=True)
class Policy:
    """primary: the metric that must rise. guardrails: metrics whose lift must not be surely below -tolerance.
    min_units: users per arm before anything is promoted. max_crossed: tolerated share of users seen in two arms."""

    primary: str = "ecpm"
    guardrails: tuple[str, ...] = ("ctr",)
    tolerance: float = 0.01
    min_units: int = 1_000
    max_crossed: float = 0.01


@dataclass(frozen=True)
class Decision:
    """arm: the one to promote or to roll back; the best candidate so far, or None, when holding."""

    action: Action
    arm: str | None
    reasons: list[str]


def decide(report: ExperimentReport, policy: Policy | None = None) -> Decision:
    """Broken assignment: hold, for no number can be trusted. A challenger that surely harms: roll back. The challenger
    with the highest sure lift, in no domain surely worse: promote. Else hold, with the reasons."""
    policy = policy or Policy()
    broken = _broken(report, policy)
    if broken:
        return Decision("hold", None, broken)
    challengers = report.overall.arms[1:]
    for arm in challengers:
        harm = _harm(arm, policy)
        if harm:
            return Decision("roll_back", arm.arm, harm)
    ranked = sorted(challengers, key=lambda arm: _low(arm, policy.primary), reverse=True)
    if not ranked:
        return Decision("hold", None, ["there is no challenger"])
    best = ranked[0]
    doubts = _doubts(report, best, policy)
    if doubts:
        return Decision("hold", best.arm, doubts)
    return Decision("promote", best.arm, [f"{policy.primary} of {best.arm!r} rose: {_text(best, policy.primary)}"])


def _broken(report: ExperimentReport, policy: Policy) -> list[str]:
    reasons = []
    check = report.overall.srm
    if not isinstance(check, NotComputable) and check.broken:
        counts = ", ".join(f"{arm.arm} {arm.units}" for arm in report.overall.arms)
        reasons.append(f"sample ratio mismatch: {counts}, p = {check.p_value:.2g}")
    units = sum(arm.units for arm in report.overall.arms)
    if report.crossed_units > policy.max_crossed * (units + report.crossed_units):
        reasons.append(f"{report.crossed_units} of {units + report.crossed_units} users were seen in two arms")
    return reasons


def _harm(arm: ArmReport, policy: Policy) -> list[str]:
    """Metrics that surely fell; a guardrail may fall by the tolerance."""
    limits = dict.fromkeys(policy.guardrails, -policy.tolerance) | {policy.primary: 0.0}
    return [
        f"{name} of {arm.arm!r} fell: {_text(arm, name)}"
        for name, limit in limits.items()
        if isinstance(one := arm.lifts[name], Estimate) and one.high < limit
    ]


def _doubts(report: ExperimentReport, best: ArmReport, policy: Policy) -> list[str]:
    reasons = [
        f"{arm.arm!r} has {arm.units} users of the {policy.min_units} needed"
        for arm in (report.overall.arms[0], best)
        if arm.units < policy.min_units
    ]
    if _low(best, policy.primary) <= 0:
        reasons.append(f"{policy.primary} of {best.arm!r} did not surely rise: {_text(best, policy.primary)}")
    for domain, part in report.domains.items():
        if _falls_in(part, best.arm, policy.primary):
            reasons.append(f"{policy.primary} of {best.arm!r} fell in {domain}: {_text(part.arm(best.arm), policy.primary)}")
    return reasons


def _falls_in(part: Slice, arm: str, metric: str) -> bool:
    one = part.arm(arm).lifts[metric]
    return isinstance(one, Estimate) and one.high < 0


def _low(arm: ArmReport, metric: str) -> float:
    one = arm.lifts[metric]
    return one.low if isinstance(one, Estimate) else float("-inf")


def _text(arm: ArmReport, metric: str) -> str:
    one = arm.lifts[metric]
    if isinstance(one, NotComputable):
        return f"not computable, {one.reason}"
    return f"{one.value:+.2%} [{one.low:+.2%}, {one.high:+.2%}]"
