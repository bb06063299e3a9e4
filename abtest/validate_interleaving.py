"""How many users interleaving takes where a split of the users takes so many, and how often it is wrong, by simulation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from abtest.compare import compare
from abtest.estimate import Estimate, Result, against_zero, quantile, sign_test
from abtest.plan import Plan
from abtest.preference import always_valid, margin_of, preference
from abtest.simulate import Array, World
from abtest.simulate_interleaving import Rankers, Visits, clicked, merge, split, visit
from abtest.stats import Mean

METHODS = ("margin", "mean preference", "sign test", "always valid", "always valid, daily")


@dataclass(frozen=True)
class Needed:
    """Of one draw of users. lift: of the second ranker's clicks on the same requests; margin: of interleaved clicks, both as the
    law has them; split, interleaved: users for the power; overlap: share of a slate that both rankers show; kept: clicks on
    interleaved slates, relative to the mean of the rankers' own."""

    lift: float
    margin: float
    split: float
    interleaved: float
    overlap: float
    kept: float

    @property
    def ratio(self) -> float:
        return self.split / self.interleaved


def needed(world: World, rankers: Rankers, seed: int, power: float = 0.8) -> Needed:
    """By the two-sided normal test (Cohen 1988, chapter 2), from the effects without the noise of clicks and the variances of
    the estimates that reports give: the lift of the click rate, by CUPED where that helps, and the margin."""
    rng = np.random.default_rng([seed, world.users])
    visits = visit(world, rankers, rng, before=True)
    clicks = visits.expected(0), visits.expected(1)
    lift = clicks[1] / clicks[0] - 1
    merged = merge(visits.after(), rng)
    chances = merged.visits.chances(merged.slates)
    first, second = merged.by_day(chances).sum(axis=(1, 2))
    margin = float((second - first) / (second + first))
    spread = _variance(_margin(merged.by_day(clicked(chances, rng)))) * world.users
    ahead = (quantile(math.inf, 0.95) + quantile(math.inf, 2 * power - 1)) ** 2
    return Needed(
        lift=lift,
        margin=margin,
        split=ahead * _variance(_lift(visits, rng)) * world.users / lift**2,
        interleaved=ahead * spread / margin**2,
        overlap=_overlap(visits),
        kept=2 * float(chances.sum()) / sum(clicks),
    )


@dataclass
class Rates:
    """found: experiments by METHODS that call the rankers different; margins: of each, positive for the second."""

    experiments: int = 0
    found: Counter[str] = field(default_factory=Counter)
    margins: list[float] = field(default_factory=list)

    def share(self, method: str) -> float:
        return self.found[method] / self.experiments if self.experiments else math.nan

    @property
    def bias(self) -> tuple[float, float]:
        """Mean of the margins, and its standard error."""
        return float(np.mean(self.margins)), float(np.std(self.margins, ddof=1) / math.sqrt(len(self.margins)))


def interleavings(world: World, rankers: Rankers, numbers: Iterable[int], seed: int) -> Rates:
    """Each read after its last day by every method, and after every day by the always-valid one."""
    rates = Rates()
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        merged = merge(visit(world, rankers, rng), rng)
        clicks = merged.by_day(clicked(merged.visits.chances(merged.slates), rng))
        first, second = clicks.sum(axis=2)
        last = _margin(clicks)
        looks = [_always(clicks[:, :, : day + 1], world.users) for day in range(world.days)]
        rates.experiments += 1
        rates.margins.append(last.value if isinstance(last, Estimate) else 0.0)
        sign = sign_test(int((second > first).sum()), int((second < first).sum()))
        rates.found["margin"] += _sure(last)
        rates.found["mean preference"] += _sure(against_zero(Mean.of(preference(first, second))))
        rates.found["sign test"] += isinstance(sign, float) and sign < 0.05
        rates.found["always valid"] += looks[-1]
        rates.found["always valid, daily"] += any(looks)
    return rates


def splits(world: World, rankers: Rankers, numbers: Iterable[int], seed: int) -> float:
    """Share of user-split experiments that call the click rates different after the last day."""
    found = []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        found.append(_sure(_lift(visit(world, rankers, rng, before=True), rng)))
    return sum(found) / len(found)


def swapped(rankers: Rankers) -> Rankers:
    return replace(rankers, sight=(rankers.sight[1], rankers.sight[0]))


def _lift(visits: Visits, rng: np.random.Generator) -> Result:
    (tallies,) = split(visits, rng).tallies(days=[visits.world.days - 1])
    found = compare(tallies["treated"], tallies["control"], "ctr", Plan())
    return found.adjusted if found.adjusted_helps else found.plain


def _margin(clicks: Array) -> Result:
    """clicks: (2, users, days), as they weigh"""
    first, second = clicks.sum(axis=2)
    return margin_of(first, second)


def _always(clicks: Array, planned: int) -> bool:
    credited = int((clicks.sum(axis=(0, 2)) > 0).sum())
    return _sure(always_valid(_margin(clicks), credited, planned))


def _sure(one: Result) -> bool:
    return isinstance(one, Estimate) and (one.low > 0 or one.high < 0)


def _variance(one: Result) -> float:
    return one.variance if isinstance(one, Estimate) and one.variance is not None else math.nan


def _overlap(visits: Visits) -> float:
    first, second = visits.slates
    return float((first[:, :, None] == second[:, None, :]).any(axis=2).mean())
