"""Means and centred cross products of several columns over the same units, which add up as those of one column do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """n units with k values each. mean: (k,); cross: (k, k), symmetric: sums over units of the products of deviations
    from the mean.

    Adding: Chan, Golub & LeVeque 1983, The American Statistician 37(3), eq. 2.1, for each pair of columns."""

    n: int
    mean: Vector
    cross: Vector

    @classmethod
    def of(cls, columns: Sequence[ArrayLike] | Vector) -> Moments:
        """columns: k arrays (n,), row i of each belonging to unit i."""
        x = np.asarray(columns, dtype=np.float64)
        if x.shape[1] == 0:
            return cls(0, np.zeros(len(x)), np.zeros((len(x), len(x))))
        mean = x.mean(axis=1)
        deviations = x - mean[:, None]
        return cls(x.shape[1], mean, deviations @ deviations.T)

    def __add__(self, other: Self) -> Moments:
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        cross = self.cross + other.cross + np.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, self.mean + gap * (other.n / n), cross)

    def select(self, columns: Sequence[int], scales: ArrayLike) -> Moments:
        """Of some of the columns, each times its scale."""
        at, by = list(columns), np.asarray(scales, dtype=np.float64)
        return Moments(self.n, self.mean[at] * by, self.cross[at][:, at] * by * by[:, None])

    def covariance(self, left: Vector, right: Vector) -> float:
        """Sum over units of the products of two linear combinations (k,) of the columns, centred."""
        return float(left @ self.cross @ right)
