"""Guardrails: a metric that may not get worse by more than its margin. Not having shown harm is not having shown none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from abtest.estimate import Estimate, Result, tail
from abtest.stats import NotComputable

Verdict = Literal["passes", "breached", "undecided", "not computable"]


@dataclass(frozen=True)
class Guardrail:
    """margin: the worsening that is tolerated, a fraction of the control. p_value: of "it is worse by the margin or more"
    at one fixed look, small when the guardrail passes."""

    metric: str
    margin: float
    verdict: Verdict
    p_value: float | None
    reason: str


def judge(metric: str, margin: float, lift: Result, better: Literal["up", "down"]) -> Guardrail:
    """Non-inferiority by the interval: passes when all of it is on the good side of the margin, breached when none of it is
    (ICH E9, section 3.3.2; Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15). A 95% interval makes each side a
    test at 2.5%; an always-valid interval makes it one at every look."""
    if isinstance(lift, NotComputable):
        return Guardrail(metric, margin, "not computable", None, f"{metric}: not computable, {lift.reason}")
    sign = 1 if better == "up" else -1
    worst, best = sorted((sign * lift.low, sign * lift.high))
    verdict: Verdict = "passes" if worst > -margin else "breached" if best < -margin else "undecided"
    words = {
        "passes": "is not worse by more than the margin",
        "breached": "is worse by more than the margin",
        "undecided": "may be worse by more than the margin",
    }
    reason = f"{metric} {words[verdict]} of {margin:.1%}: {lift.value:+.2%} [{lift.low:+.2%}, {lift.high:+.2%}]"
    return Guardrail(metric, margin, verdict, _p_value(lift, sign, margin), reason)


def _p_value(lift: Estimate, sign: int, margin: float) -> float | None:
    if lift.variance is None:
        return None
    return tail((sign * lift.value + margin) / math.sqrt(lift.variance), lift.degrees)
