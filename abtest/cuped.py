"""CUPED: what a user did before the experiment explains part of what he does in it, and that part is no news about the arms.

The outcome is regressed on the same quantity before the start, with one slope for both arms, and the explained part is taken
off (Deng, Xu, Kohavi & Walker 2013, "Improving the Sensitivity of Online Controlled Experiments by Utilizing Pre-Experiment
Data", WSDM, section 3.2): the difference stays unbiased, because nothing before the start can depend on the arm, and its
variance falls by the squared correlation. A ratio is linear in its unit means to first order (Deng, Knoblich & Lu 2018,
arXiv 1803.06336, section 4), so its linearised outcome is regressed on the linearised ratio before the start (WSDM 2013,
appendix B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from abtest.moments import Moments, Vector
from abtest.stats import Mean, Moment, NotComputable, Ratio

NO_GAIN = 0.01  # less of the variance than this removed is called nothing


@dataclass(frozen=True, eq=False)
class Paired:
    """Sufficient statistics of one arm: of a mean the columns (value, value before), of a ratio (numerator, denominator,
    numerator before, denominator before). Who was not there before has zeros."""

    moments: Moments

    @classmethod
    def of(cls, *columns: ArrayLike) -> Paired:
        """columns: two or four arrays (n,), in the order above."""
        if len(columns) not in (2, 4):
            raise ValueError(f"{len(columns)} columns; a mean has 2, a ratio 4")
        return cls(Moments.of(columns))

    def __add__(self, other: Self) -> Paired:
        return Paired(self.moments + other.moments)

    def plain(self) -> Mean | Ratio:
        """The outcome without its past."""
        n, mean, cross = self.moments.n, self.moments.mean, self.moments.cross
        if len(mean) == 2:
            return Mean(n, float(mean[0]), float(cross[0, 0]))
        return Ratio(n, *map(float, (mean[0], mean[1], cross[0, 0], cross[1, 1], cross[0, 1])))


@dataclass(frozen=True)
class AdjustedArm:
    """One arm's value with the explained part taken off; a statistic, so that `difference` and `lift` take it."""

    adjusted: Moment

    def moment(self) -> Moment:
        return self.adjusted


@dataclass(frozen=True)
class Adjusted:
    """Both arms adjusted with the slope theta. gain: the share of the difference's variance that is gone."""

    treated: AdjustedArm
    control: AdjustedArm
    theta: float
    gain: float


def adjust(treated: Paired, control: Paired) -> Adjusted | NotComputable:
    """theta = cov(outcome, before) / var(before) over the units of both arms together; each arm's value less theta times
    the distance of its past from the past of both."""
    for name, arm in (("treated", treated), ("control", control)):
        found = arm.plain().moment()
        if isinstance(found, NotComputable):
            return NotComputable(f"{name}: {found.reason}")
    both = (treated + control).moments
    parts = _linear(both)
    if isinstance(parts, NotComputable):
        return parts
    outcome, before = parts
    spread = both.covariance(before, before)
    if spread <= 0:
        return NotComputable("nothing before the start varies between users")
    theta = both.covariance(outcome, before) / spread
    past = _value(both.mean[len(both.mean) // 2 :])
    arms = []
    for name, arm in (("treated", treated), ("control", control)):
        one = _adjusted(arm.moments, theta, past)
        if isinstance(one, NotComputable):
            return NotComputable(f"{name}: {one.reason}")
        arms.append(one)
    before_variance = _variance(treated) + _variance(control)
    after_variance = arms[0].adjusted.variance + arms[1].adjusted.variance
    gain = 1 - after_variance / before_variance if before_variance > 0 else 0.0
    return Adjusted(arms[0], arms[1], theta, gain)


def _adjusted(arm: Moments, theta: float, past: float) -> AdjustedArm | NotComputable:
    parts = _linear(arm)
    if isinstance(parts, NotComputable):
        return parts
    outcome, before = parts
    half = len(arm.mean) // 2
    value = _value(arm.mean[:half]) - theta * (_value(arm.mean[half:]) - past)
    weights = outcome - theta * before
    variance = max(arm.covariance(weights, weights), 0.0) / (arm.n - 1) / arm.n
    return AdjustedArm(Moment(value, variance, arm.n - 1))


def _linear(moments: Moments) -> tuple[Vector, Vector] | NotComputable:
    """The columns' weights in the outcome and in its past, at the means: 1 for a mean; (1, -R) / denominator for a ratio R."""
    mean = moments.mean
    if len(mean) == 2:
        return np.array([1.0, 0.0]), np.array([0.0, 1.0])
    numerator, denominator, numerator_before, denominator_before = mean
    if denominator_before == 0:
        return NotComputable("the denominator before the start is 0")
    outcome = np.array([1.0, -numerator / denominator, 0.0, 0.0]) / denominator
    before = np.array([0.0, 0.0, 1.0, -numerator_before / denominator_before]) / denominator_before
    return outcome, before


def _value(means: Vector) -> float:
    return float(means[0] if len(means) == 1 else means[0] / means[1])


def _variance(arm: Paired) -> float:
    found = arm.plain().moment()
    return 0.0 if isinstance(found, NotComputable) else found.variance
