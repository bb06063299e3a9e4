"""Promote, hold or roll back: a pure function of a report, so that the nightly run and a person see the same reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abtest.analyze import ArmReport, ExperimentReport, Slice
from abtest.estimate import Estimate
from abtest.metrics import METRICS
from abtest.stats import NotComputable

Action = Literal["promote", "hold", "roll_back"]


@dataclass(frozen=True)
class Decision:
    """arm: the one to promote or to roll back; the best candidate so far, or None, when holding."""

    action: Action
    arm: str | None
    reasons: list[str]


def decide(report: ExperimentReport) -> Decision:
    """By the report's plan. Broken assignment: hold, for no number can be trusted. A challenger that surely harms: roll back.
    The challenger with the highest sure gain, no guardrail in doubt and in no domain surely worse: promote. Else hold, with
    the reasons. "Surely" is by the plan's judged interval, which by default holds however often it is looked at."""
    broken = _broken(report)
    if broken:
        return Decision("hold", None, broken)
    challengers = report.overall.arms[1:]
    for arm in challengers:
        harm = _harm(arm, report)
        if harm:
            return Decision("roll_back", arm.arm, harm)
    primary = report.plan.primary
    ranked = sorted((arm for arm in challengers if not arm.interleaves), key=lambda arm: _least_gain(arm, primary), reverse=True)
    if not ranked:
        return Decision("hold", None, ["there is no challenger"])
    best = ranked[0]
    doubts = _doubts(report, best)
    if doubts:
        return Decision("hold", best.arm, doubts)
    return Decision("promote", best.arm, [f"{primary} of {best.arm!r} rose: {_text(best, primary)}"])


def _broken(report: ExperimentReport) -> list[str]:
    reasons = []
    check = report.overall.srm
    if not isinstance(check, NotComputable) and check.broken:
        counts = ", ".join(f"{arm.arm} {arm.units}" for arm in report.overall.arms)
        reasons.append(f"sample ratio mismatch: {counts}, p = {check.p_value:.2g}")
    reasons += [f"sample ratio mismatch {words}" for words in report.split.words]
    units = sum(arm.units for arm in report.overall.arms)
    if report.crossed_units > report.plan.max_crossed * (units + report.crossed_units):
        reasons.append(f"{report.crossed_units} of {units + report.crossed_units} users were seen in two arms")
    return reasons


def _harm(arm: ArmReport, report: ExperimentReport) -> list[str]:
    """The primary metric surely worse, or a guardrail worse by more than its margin."""
    primary = report.plan.primary
    harm = [f"{primary} of {arm.arm!r} fell: {_text(arm, primary)}"] if _gain(arm, primary)[1] < 0 else []
    return harm + [f"{arm.arm!r}: {one.reason}" for one in arm.guardrails if one.verdict == "breached"]


def _doubts(report: ExperimentReport, best: ArmReport) -> list[str]:
    plan, primary = report.plan, report.plan.primary
    reasons = [
        f"{arm.arm!r} has {arm.units} users of the {plan.min_units} needed"
        for arm in (report.overall.arms[0], best)
        if arm.units < plan.min_units
    ]
    one = best.lifts[primary]
    if _least_gain(best, primary) <= 0:
        reasons.append(f"{primary} of {best.arm!r} did not surely rise: {_text(best, primary)}")
    elif one.holm_p is not None and one.holm_p >= 1 - plan.confidence:
        reasons.append(f"{primary} of {best.arm!r} rose as one of several challengers may by chance: p = {one.holm_p:.2g}")
    reasons += [f"{best.arm!r}: {one.reason}" for one in best.guardrails if one.verdict != "passes"]
    for domain, part in report.domains.items():
        if _falls_in(part, best.arm, report):
            reasons.append(f"{primary} of {best.arm!r} fell in {domain}: {_text(part.arm(best.arm), primary)}")
    return reasons


def _falls_in(part: Slice, arm: str, report: ExperimentReport) -> bool:
    """Corrected for the number of metrics and domains: with many of them one falls by chance."""
    one = part.arm(arm)
    p_value = one.lifts[report.plan.primary].holm_p
    return _gain(one, report.plan.primary)[1] < 0 and p_value is not None and p_value < 1 - report.plan.confidence


def _gain(arm: ArmReport, metric: str) -> tuple[float, float]:
    """The judged interval, turned so that up is better; from minus to plus infinity where there is none."""
    one = arm.lifts[metric].judged
    if isinstance(one, NotComputable):
        return float("-inf"), float("inf")
    return (one.low, one.high) if METRICS[metric].better == "up" else (-one.high, -one.low)


def _least_gain(arm: ArmReport, metric: str) -> float:
    return _gain(arm, metric)[0]


def _text(arm: ArmReport, metric: str) -> str:
    one = arm.lifts[metric].judged
    if not isinstance(one, Estimate):
        return f"not computable, {one.reason}"
    return f"{one.value:+.2%} [{one.low:+.2%}, {one.high:+.2%}]"
