"""Sufficient statistics that add up.

A statistic holds counts, means and centred sums over units (users), so that days, gateways and domains are merged by `+`
without touching the rows again, and without the cancellation of raw sums of squares (Chan, Golub & LeVeque 1983,
"Algorithms for Computing the Sample Variance", The American Statistician 37(3), eq. 2.1).

What cannot be computed is a NotComputable with its reason, never an effect of 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike


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


class Statistic(Protocol):
    def moment(self) -> Moment | NotComputable: ...


@dataclass(frozen=True)
class Missing:
    """A statistic that there is none of, and why."""

    reason: str

    def moment(self) -> NotComputable:
        return NotComputable(self.reason)


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


Counted = Proportion | Mean | Ratio | Missing
"""What one metric of one arm may be."""
