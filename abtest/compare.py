"""One metric of two arms, compared every way that the report shows."""

from __future__ import annotations

from dataclasses import dataclass

from abtest.cuped import NO_GAIN, adjust
from abtest.estimate import Estimate, Result, difference, lift
from abtest.plan import Plan
from abtest.sequential import sequential
from abtest.stats import NotComputable, Statistic
from abtest.tally import Tally


@dataclass(frozen=True)
class Lift:
    """Relative to the control, a fraction. plain: at one look chosen beforehand; adjusted: the same by CUPED; gain: the share
    of the variance that CUPED takes off, or why it is not computable; always_valid: at every look, of the adjusted one where
    CUPED helps; judged: what decisions read, by the plan; holm_p: its p-value corrected for all that is shown beside it."""

    plain: Result
    adjusted: Result
    gain: float | NotComputable
    always_valid: Result
    judged: Result
    p_value: float | None = None
    holm_p: float | None = None

    @property
    def adjusted_helps(self) -> bool:
        """CUPED takes off enough to be used."""
        return isinstance(self.adjusted, Estimate) and isinstance(self.gain, float) and self.gain >= NO_GAIN


def compare(treated: Tally, control: Tally, metric: str, plan: Plan) -> Lift:
    pair = treated.statistic(metric), control.statistic(metric)
    plain = lift(*pair, plan.confidence)
    adjusted, gain, adjusted_pair = _adjusted(treated, control, metric, plan.confidence)
    helps = isinstance(gain, float) and gain >= NO_GAIN and adjusted_pair is not None
    best = adjusted if helps else plain
    units = treated.units + control.units
    always_valid = sequential(best, units, plan.planned_units, plan.confidence) if units else best
    if plan.sequential:
        return Lift(plain, adjusted, gain, always_valid, always_valid, _p_value(always_valid))
    apart = difference(*(adjusted_pair if helps and adjusted_pair else pair), plan.confidence)
    return Lift(plain, adjusted, gain, always_valid, best, _p_value(apart) if isinstance(best, Estimate) else None)


def _adjusted(
    treated: Tally, control: Tally, metric: str, confidence: float
) -> tuple[Result, float | NotComputable, tuple[Statistic, Statistic] | None]:
    if not (treated.history and control.history):
        missing = NotComputable("the ledger holds no day before the start")
        return missing, missing, None
    found = adjust(treated.paired(metric), control.paired(metric))
    if isinstance(found, NotComputable):
        return found, found, None
    adjusted = lift(found.treated, found.control, confidence)
    if isinstance(adjusted, NotComputable):
        return adjusted, adjusted, None
    return adjusted, found.gain, (found.treated, found.control)


def _p_value(one: Result) -> float | None:
    return one.p_value if isinstance(one, Estimate) else None
