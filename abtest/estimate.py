"""What can be concluded from one statistic (an interval) or from two (a difference, a lift), at one look chosen beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from abtest.stats import Moment, NotComputable, Proportion, Statistic

_ROUNDING = 1e-24  # (relative error of a mean in float64)^2, with room: a variance below this is none


@dataclass(frozen=True)
class Estimate:
    """value with a two-sided interval. Of differences and lifts also: p_value of "it is 0", the variance of the value
    (its squared standard error) and its degrees of freedom."""

    value: float
    low: float
    high: float
    p_value: float | None = None
    variance: float | None = None
    degrees: float = math.inf


Result = Estimate | NotComputable


def interval(statistic: Statistic, confidence: float = 0.95) -> Result:
    """One arm's value. Proportions get Wilson's score interval (Wilson 1927, JASA 22), which stays inside [0, 1] and
    is honest at 0 successes; means and ratios Student's."""
    moment = statistic.moment()
    if isinstance(moment, NotComputable):
        return moment
    if isinstance(statistic, Proportion):
        return _wilson(statistic, confidence)
    half = quantile(moment.degrees, confidence) * math.sqrt(moment.variance)
    return Estimate(moment.value, moment.value - half, moment.value + half)


def difference(treated: Statistic, control: Statistic, confidence: float = 0.95) -> Result:
    """treated - control; Welch's unequal variances with Satterthwaite's degrees of freedom (Welch 1947, Biometrika 34)."""
    pair = _pair(treated, control)
    if isinstance(pair, NotComputable):
        return pair
    left, right = pair
    parts = ((left.variance, left.degrees), (right.variance, right.degrees))
    return _test(left.value - right.value, max(abs(left.value), abs(right.value)), parts, confidence)


def lift(treated: Statistic, control: Statistic, confidence: float = 0.95) -> Result:
    """(treated - control) / control, as a fraction. Delta method for the percent change of independent arms:
    var = var_t / c^2 + t^2 var_c / c^4  (Deng, Knoblich & Lu 2018, arXiv 1803.06336, section 3)."""
    pair = _pair(treated, control)
    if isinstance(pair, NotComputable):
        return pair
    left, right = pair
    if right.value <= 0:
        return NotComputable(
            f"the control's value is {'0' if right.value == 0 else 'negative'}, so nothing can be relative to it"
        )
    scaled = (left.variance / right.value**2, left.degrees), (left.value**2 * right.variance / right.value**4, right.degrees)
    return _test((left.value - right.value) / right.value, max(abs(left.value / right.value), 1.0), scaled, confidence)


def against_zero(statistic: Statistic, confidence: float = 0.95) -> Result:
    """One value that is 0 where there is no difference, as a mean of differences within units: Student's one-sample t test
    (Student 1908, "The Probable Error of a Mean", Biometrika 6). Values are taken to be of the order of 1."""
    moment = statistic.moment()
    if isinstance(moment, NotComputable):
        return moment
    return _test(moment.value, max(abs(moment.value), 1.0), ((moment.variance, moment.degrees),), confidence)


def sign_test(up: int, down: int) -> float | NotComputable:
    """Two-sided p-value of "as many units prefer one side as the other"; exact, by the binomial law (Dixon & Mood 1946, "The
    Statistical Sign Test", JASA 41). Units that prefer neither are left out."""
    if up + down == 0:
        return NotComputable("no unit prefers either side")
    return min(2 * float(special.bdtr(min(up, down), up + down, 0.5)), 1.0)


def _pair(treated: Statistic, control: Statistic) -> tuple[Moment, Moment] | NotComputable:
    left, right = treated.moment(), control.moment()
    if isinstance(left, NotComputable):
        return NotComputable(f"treated: {left.reason}")
    if isinstance(right, NotComputable):
        return NotComputable(f"control: {right.reason}")
    return left, right


def _test(value: float, scale: float, parts: Sequence[tuple[float, float]], confidence: float) -> Result:
    """scale: size of the larger arm in the units of value; parts: (variance, degrees of freedom) of each arm."""
    variance = sum(part for part, _ in parts)
    if variance <= _ROUNDING * scale**2:
        return NotComputable("no variation between units, so no error can be estimated")
    spread = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / spread if spread > 0 else math.inf
    error = math.sqrt(variance)
    half = quantile(degrees, confidence) * error
    return Estimate(value, value - half, value + half, 2 * tail(abs(value) / error, degrees), variance, degrees)


def tail(score: float, degrees: float) -> float:
    """P(T > score): Student's with `degrees`, normal when they are infinite."""
    return float(special.ndtr(-score) if math.isinf(degrees) else special.stdtr(degrees, -score))


def quantile(degrees: float, confidence: float) -> float:
    """Half the width of a two-sided interval in standard errors."""
    upper = (1 + confidence) / 2
    return float(special.ndtri(upper) if math.isinf(degrees) else special.stdtrit(degrees, upper))


def _wilson(one: Proportion, confidence: float) -> Estimate:
    z = quantile(math.inf, confidence)
    share, widen = one.successes / one.n, 1 + z**2 / one.n
    centre = (share + z**2 / (2 * one.n)) / widen
    half = z * math.sqrt(share * (1 - share) / one.n + z**2 / (4 * one.n**2)) / widen
    return Estimate(share, max(centre - half, 0.0), min(centre + half, 1.0))
