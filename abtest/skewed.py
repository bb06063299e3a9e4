"""An interval for a ratio of sums over users of which a few are far larger than the rest, as weighted rewards are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from abtest.estimate import Estimate, Result, quantile
from abtest.stats import NotComputable, Ratio


def skewed_interval(numerators: ArrayLike, denominators: ArrayLike, confidence: float = 0.95) -> Result:
    """sum of x / sum of y. Both (n,), one row a user.

    The delta method writes the ratio's error as a mean of e = (x - R y) / mean(y) (stats.Ratio). Where e is skewed, Student's
    interval misses on one side; Hall's cubic transformation takes the skewness out, to first order, and is monotone
    (Hall 1992, JRSS B 54(1), "On the Removal of Skewness by Transformation", eq. 2.3 with the constants of a mean)."""
    x, y = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    moment = Ratio.of(x, y).moment()
    if isinstance(moment, NotComputable):
        return moment
    value, error = moment.value, math.sqrt(moment.variance)
    residuals = x - value * y
    spread = math.sqrt(float(np.square(residuals).mean()))
    skewness = float((residuals**3).mean()) / spread**3 if spread > 0 else 0.0
    student = quantile(moment.degrees, confidence)
    low, high = (value - error * _undone(score, skewness, len(x)) for score in (student, -student))
    return Estimate(value, low, high, None, moment.variance, moment.degrees)


def _undone(score: float, skewness: float, n: int) -> float:
    """t such that t + skewness (2 t^2 + 1) / (6 sqrt n) + skewness^2 t^3 / (27 n), about normal, is `score`."""
    if abs(skewness) < 1e-6:
        return score
    root = math.sqrt(n)
    return 3 * root / skewness * (math.cbrt(1 + skewness * (score / root - skewness / (6 * n))) - 1)
