"""Counts of values in bins whose bounds grow by a constant factor: what several workers can add up, and still be asked for a
quantile, which is right to within a bin's width (10% of a time, 25% of a probability) and interpolated inside it.

A histogram is a mapping bin -> count. Bin b holds (floor * step^(b-1), floor * step^b]; bin 0 all up to the floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Histogram = Mapping[int, int]


@dataclass(frozen=True)
class Scale:
    """floor: upper bound of the first bin; step: from one bound to the next; bins: the last one is open."""

    floor: float
    step: float
    bins: int

    def bin(self, value: float) -> int:
        """NaN and infinity have the last bin: what is no number must not pass for a small one."""
        if value <= self.floor:
            return 0
        if not math.isfinite(value):
            return self.bins - 1
        return min(math.ceil(math.log(value / self.floor) / math.log(self.step) - 1e-9), self.bins - 1)

    def bound(self, number: int) -> float:
        """Upper bound of a bin."""
        return float(self.floor * self.step**number)

    def quantile(self, counts: Histogram, share: float) -> float | None:
        """None of nothing."""
        total = sum(counts.values())
        if not total:
            return None
        left = share * total
        for number in sorted(counts):
            count = counts[number]
            if count and left <= count:
                low = self.bound(number - 1) if number else 0.0
                return low + (self.bound(number) - low) * left / count
            left -= count
        return self.bound(max(counts))


MILLISECONDS = Scale(0.05, 1.1, 140)
"""Up to 28 s."""
PROBABILITIES = Scale(1e-5, 1.25, 53)
"""Up to 1."""


def above(counts: Histogram, number: int) -> int:
    """How many lie in bins beyond this one."""
    return sum(count for one, count in counts.items() if one > number)
