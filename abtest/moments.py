"""Means and centred cross products of several columns over the same units, which add up as those of one column do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Moments:
    """n units with k values each. mean: (k,); cross: (k, k), sums over units of the products of deviations from the mean.

    Adding: Chan, Golub & LeVeque 1983, The American Statistician 37(3), eq. 2.1, for each pair of columns."""

    n: int
    mean: tuple[float, ...]
    cross: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, columns: Sequence[ArrayLike]) -> Moments:
        """columns: k arrays (n,), row i of each belonging to unit i."""
        x = np.array([np.asarray(one, dtype=np.float64) for one in columns])
        if x.shape[1] == 0:
            return cls._from(0, np.zeros(len(x)), np.zeros((len(x), len(x))))
        mean = x.mean(axis=1)
        deviations = x - mean[:, None]
        return cls._from(x.shape[1], mean, deviations @ deviations.T)

    @classmethod
    def _from(cls, n: int, mean: NDArray[np.float64], cross: NDArray[np.float64]) -> Moments:
        return cls(n, tuple(map(float, mean)), tuple(tuple(map(float, row)) for row in cross))

    def __add__(self, other: Self) -> Moments:
        n = self.n + other.n
        if n == 0:
            return self
        gap = np.subtract(other.mean, self.mean)
        mean = np.asarray(self.mean) + gap * (other.n / n)
        cross = np.asarray(self.cross) + np.asarray(other.cross) + np.outer(gap, gap) * (self.n * other.n / n)
        return self._from(n, mean, cross)

    def covariance(self, left: ArrayLike, right: ArrayLike) -> float:
        """Sum over units of the products of two linear combinations (k,) of the columns, centred."""
        return float(np.asarray(left) @ np.asarray(self.cross) @ np.asarray(right))
