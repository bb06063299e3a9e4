"""Sufficient statistics that add up, and what can be concluded from two of them.

A statistic holds counts, means and centred sums over units (users), so that days, gateways and domains are merged by `+`
without touching the rows again, and without the cancellation of raw sums of squares (Chan, Golub & LeVeque 1983,
"Algorithms for Computing the Sample Variance", The American Statistician 37(3), eq. 2.1).

What cannot be computed is a NotComputable with its reason, never an effect of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as distributions

SRM_P_VALUE = 0.001  # one sound experiment in a thousand is stopped by mistake; it is looked at often, so less would cry wolf
_ROUNDING = 1e-24  # (relative error of a mean in float64)^2, with room: a variance below this is none


@dataclass(frozen=True)
class NotComputable:
    """There is no number, and why."""

    reason: str


@dataclass(frozen=True)
class Moment:
    """A point estimate with the variance of that estimate (its squared standard error) and its degrees of freedom."""

    value: float
    variance: float
    degrees: float


@dataclass(frozen=True)
class Estimate:
    """value with a two-sided interval; p_value of "it is 0" where that is asked (differences and lifts)."""

    value: float
    low: float
    high: float
    p_value: float | None = None


class Statistic(Protocol):
    def moment(self) -> Moment | NotComputable: ...


@dataclass(frozen=True)
class Proportion:
    """n units, of which `successes` have a property."""

    n: int = 0
    successes: int = 0

    def __add__(self, other: Self) -> Proportion:
        return Proportion(self.n + other.n, self.successes + other.successes)

    def moment(self) -> Moment | NotComputable:
        """Variance p (1 - p) / n; normal (the test of two proportions without pooling, as Wald)."""
        if self.n == 0:
            return NotComputable("no units")
        share = self.successes / self.n
        return Moment(share, share * (1 - share) / self.n, math.inf)


@dataclass(frozen=True)
class Mean:
    """n units with a value each: mean, and m2 = sum of squared deviations from it."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> Mean:
        """values: (n,)"""
        x = np.asarray(values, dtype=np.float64)
        if x.size == 0:
            return cls()
        return cls(x.size, float(x.mean()), float(np.square(x - x.mean()).sum()))

    def __add__(self, other: Self) -> Mean:
        n = self.n + other.n
        if n == 0:
            return Mean()
        gap = other.mean - self.mean
        return Mean(n, self.mean + gap * other.n / n, self.m2 + other.m2 + gap**2 * self.n * other.n / n)

    def moment(self) -> Moment | NotComputable:
        if self.n < 2:
            return NotComputable("a variance needs two units or more")
        return Moment(self.mean, self.m2 / (self.n - 1) / self.n, self.n - 1)


@dataclass(frozen=True)
class Ratio:
    """sum of x / sum of y over n units that were randomised as wholes, e.g. clicks and impressions of each user:
    means of both, and their centred sums of squares and products."""

    n: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    m_xx: float = 0.0
    m_yy: float = 0.0
    m_xy: float = 0.0

    @classmethod
    def of(cls, numerators: ArrayLike, denominators: ArrayLike) -> Ratio:
        """Both (n,), one row a unit."""
        x, y = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
        if x.size == 0:
            return cls()
        dx, dy = x - x.mean(), y - y.mean()
        return cls(x.size, float(x.mean()), float(y.mean()), float(dx @ dx), float(dy @ dy), float(dx @ dy))

    def __add__(self, other: Self) -> Ratio:
        n = self.n + other.n
        if n == 0:
            return Ratio()
        weight = self.n * other.n / n
        gap_x, gap_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        return Ratio(
            n,
            self.mean_x + gap_x * other.n / n,
            self.mean_y + gap_y * other.n / n,
            self.m_xx + other.m_xx + gap_x**2 * weight,
            self.m_yy + other.m_yy + gap_y**2 * weight,
            self.m_xy + other.m_xy + gap_x * gap_y * weight,
        )

    def moment(self) -> Moment | NotComputable:
        """Delta method for a ratio of means over clusters: with R = x / y,
        var R = (s_xx - 2 R s_xy + R^2 s_yy) / (n y^2)  (Deng, Knoblich & Lu 2018, arXiv 1803.06336, section 4)."""
        if self.n < 2:
            return NotComputable("a variance needs two units or more")
        if self.mean_y == 0:
            return NotComputable("the denominator is 0")
        ratio = self.mean_x / self.mean_y
        spread = max(self.m_xx - 2 * ratio * self.m_xy + ratio**2 * self.m_yy, 0.0)
        return Moment(ratio, spread / (self.n - 1) / self.n / self.mean_y**2, self.n - 1)


def interval(statistic: Statistic, confidence: float = 0.95) -> Estimate | NotComputable:
    """One arm's value. Proportions get Wilson's score interval (Wilson 1927, JASA 22), which stays inside [0, 1] and
    is honest at 0 successes; means and ratios Student's."""
    moment = statistic.moment()
    if isinstance(moment, NotComputable):
        return moment
    if isinstance(statistic, Proportion):
        return _wilson(statistic, confidence)
    half = _quantile(moment.degrees, confidence) * math.sqrt(moment.variance)
    return Estimate(moment.value, moment.value - half, moment.value + half)


def difference(treated: Statistic, control: Statistic, confidence: float = 0.95) -> Estimate | NotComputable:
    """treated - control; Welch's unequal variances with Satterthwaite's degrees of freedom (Welch 1947, Biometrika 34)."""
    pair = _pair(treated, control)
    if isinstance(pair, NotComputable):
        return pair
    left, right = pair
    parts = ((left.variance, left.degrees), (right.variance, right.degrees))
    return _test(left.value - right.value, max(abs(left.value), abs(right.value)), parts, confidence)


def lift(treated: Statistic, control: Statistic, confidence: float = 0.95) -> Estimate | NotComputable:
    """(treated - control) / control, as a fraction. Delta method for the percent change of independent arms:
    var = var_t / c^2 + t^2 var_c / c^4  (Deng, Knoblich & Lu 2018, arXiv 1803.06336, section 3)."""
    pair = _pair(treated, control)
    if isinstance(pair, NotComputable):
        return pair
    left, right = pair
    if right.value == 0:
        return NotComputable("the control's value is 0, so nothing can be relative to it")
    scaled = (left.variance / right.value**2, left.degrees), (left.value**2 * right.variance / right.value**4, right.degrees)
    return _test((left.value - right.value) / right.value, max(abs(left.value / right.value), 1.0), scaled, confidence)


@dataclass(frozen=True)
class SrmCheck:
    """Sample ratio mismatch: do the arms hold the units that the weights say? broken: the experiment's numbers mean nothing."""

    chi_square: float
    p_value: float

    @property
    def broken(self) -> bool:
        return self.p_value < SRM_P_VALUE


def srm(units: Mapping[str, int], weights: Mapping[str, float]) -> SrmCheck | NotComputable:
    """Pearson's chi-square of units per arm against the arms' weights (Pearson 1900). An arm of weight 0 with units in it
    is broken whatever the rest says."""
    arms = list(weights)
    total, share = sum(units.get(arm, 0) for arm in arms), sum(weights.values())
    if total == 0 or share <= 0:
        return NotComputable("no units" if total == 0 else "no arm has any weight")
    if any(units.get(arm, 0) and not weights[arm] for arm in arms):
        return SrmCheck(math.inf, 0.0)
    live = [arm for arm in arms if weights[arm] > 0]
    if len(live) < 2:
        return NotComputable("fewer than two arms have any weight")
    expected = np.array([total * weights[arm] / share for arm in live])
    if expected.min() < 5:
        return NotComputable("chi-square needs five expected units or more in every arm (Cochran 1954)")
    result: Any = distributions.chisquare([units.get(arm, 0) for arm in live], expected)
    return SrmCheck(float(result.statistic), float(result.pvalue))


def _pair(treated: Statistic, control: Statistic) -> tuple[Moment, Moment] | NotComputable:
    left, right = treated.moment(), control.moment()
    if isinstance(left, NotComputable):
        return NotComputable(f"treated: {left.reason}")
    if isinstance(right, NotComputable):
        return NotComputable(f"control: {right.reason}")
    return left, right


def _test(value: float, scale: float, parts: Sequence[tuple[float, float]], confidence: float) -> Estimate | NotComputable:
    """scale: size of the larger arm in the units of value; parts: (variance, degrees of freedom) of each arm."""
    variance = sum(part for part, _ in parts)
    if variance <= _ROUNDING * scale**2:
        return NotComputable("no variation between units, so no error can be estimated")
    spread = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / spread if spread > 0 else math.inf
    error = math.sqrt(variance)
    half = _quantile(degrees, confidence) * error
    tail = distributions.norm.sf(abs(value) / error) if math.isinf(degrees) else distributions.t.sf(abs(value) / error, degrees)
    return Estimate(value, value - half, value + half, float(2 * tail))


def _quantile(degrees: float, confidence: float) -> float:
    upper = (1 + confidence) / 2
    return float(distributions.norm.ppf(upper) if math.isinf(degrees) else distributions.t.ppf(upper, degrees))


def _wilson(one: Proportion, confidence: float) -> Estimate:
    z = _quantile(math.inf, confidence)
    share, widen = one.successes / one.n, 1 + z**2 / one.n
    centre = (share + z**2 / (2 * one.n)) / widen
    half = z * math.sqrt(share * (1 - share) / one.n + z**2 / (4 * one.n**2)) / widen
    return Estimate(share, max(centre - half, 0.0), min(centre + half, 1.0))
