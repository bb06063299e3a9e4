"""How often off-policy intervals hold the truth, counted over simulated logs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from abtest.estimate import Estimate
from abtest.offpolicy import LIMITS, NO_LIMITS, Limits, evaluate
from abtest.simulate_slates import SlateWorld, law

ESTIMATES = ("ips", "snips", "doubly_robust")


@dataclass
class Coverage:
    """Sums over logs. computed: of those that were not refused; covered, error, squared, width: by estimate, of those, the
    intervals that hold the truth, the errors and their squares and the half widths, each a fraction of the truth."""

    logs: int = 0
    computed: int = 0
    effective_users: float = 0.0
    share_left: float = 0.0
    effective_rewarded: float = 0.0
    covered: Counter[str] = field(default_factory=Counter)
    error: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ESTIMATES, 0.0))
    squared: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ESTIMATES, 0.0))
    width: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ESTIMATES, 0.0))

    def rate(self, name: str) -> float:
        return self.covered[name] / self.computed if self.computed else math.nan

    def mean(self, sums: dict[str, float], name: str) -> float:
        return sums[name] / self.computed if self.computed else math.nan


def cover(world: SlateWorld, numbers: Iterable[int], seed: int, limits: Limits = LIMITS) -> Coverage:
    """seed: of the ads and recipes; log i is the same whatever others are drawn beside it."""
    known, found = law(world, seed), Coverage()
    for number in numbers:
        one = evaluate(known.draw(np.random.default_rng([seed, number])), limits=limits)
        found.logs += 1
        found.effective_users += one.effective_users
        found.share_left += one.share_left
        found.effective_rewarded += one.effective_rewarded
        estimates = {name: getattr(one, name) for name in ESTIMATES}
        if not all(isinstance(estimate, Estimate) for estimate in estimates.values()):
            continue
        found.computed += 1
        for name, estimate in estimates.items():
            error = estimate.value / known.truth - 1
            found.covered[name] += estimate.low <= known.truth <= estimate.high
            found.error[name] += error
            found.squared[name] += error**2
            found.width[name] += (estimate.high - estimate.low) / 2 / known.truth
    return found


SCENARIOS: tuple[tuple[str, SlateWorld, int, Limits], ...] = (
    ("same temperature", SlateWorld(1_000, evaluated=1.0), 3, LIMITS),
    ("bolder", SlateWorld(1_000), 3, LIMITS),
    ("bolder, few users", SlateWorld(400), 4, LIMITS),
    ("bolder, rare clicks", SlateWorld(1_500, click_rate=0.003), 5, LIMITS),
    ("much bolder", SlateWorld(1_000, evaluated=0.2), 6, LIMITS),
    ("less explored", SlateWorld(1_000, logged=0.5, evaluated=0.2), 3, LIMITS),
    ("other ads", SlateWorld(1_000, logged=1.0, evaluated=0.4, apart=0.6), 8, LIMITS),
    ("far away", SlateWorld(1_000, logged=0.5, evaluated=0.2, apart=0.8), 3, LIMITS),
    ("far away, no limits", SlateWorld(1_000, logged=0.5, evaluated=0.2, apart=0.8), 3, NO_LIMITS),
)
"""What is simulated by default: name, world, seed, limits."""
