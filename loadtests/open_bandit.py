"""Open Bandit (Saito, Aihara, Matsutani & Narita 2021, NeurIPS data sets, arXiv 2008.07146): one campaign logged by two policies
at once, uniform and Bernoulli Thompson sampling. Each policy's click rate is estimated from the other's log and held against its
own.

A row is one place of three with its item and the chance of that item there; there are no user ids, so rows are the units. The
uniform policy is known. Thompson sampling's is estimated as how often it showed each item at each place, in one half of its
log; the other half is the truth, and the halves change roles. What that costs is told by drawing the half's rows again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from abtest.direct import folds, rates
from abtest.estimate import Estimate, Result, interval
from abtest.offpolicy import LIMITS, NO_LIMITS, Decisions, Evaluation, evaluate, weigh
from abtest.stats import NotComputable, Proportion

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
ITEMS, PLACES = 34, 3
_REDRAWN = 200
ESTIMATES = ("ips", "snips", "doubly_robust")
UNIFORM = np.full((PLACES, ITEMS), 1 / ITEMS)


@dataclass(frozen=True, eq=False)
class Rows:
    """item, place: from 0; clicked: 0 or 1; chance: of the item at the place. All (n,)."""

    item: Ints
    place: Ints
    clicked: Array
    chance: Array

    @classmethod
    def read(cls, directory: Path, policy: str, campaign: str = "men") -> Rows:
        """<directory>/<policy>/<campaign>/<campaign>.csv.gz"""
        frame = pl.read_csv(
            directory / policy / campaign / f"{campaign}.csv.gz", columns=["item_id", "position", "click", "propensity_score"]
        )
        item, place, clicked, chance = (frame[name].to_numpy() for name in frame.columns)
        return cls(item.astype(np.int64), place.astype(np.int64) - 1, clicked.astype(np.float64), chance)

    def some(self, mask: NDArray[np.bool_]) -> Rows:
        return Rows(self.item[mask], self.place[mask], self.clicked[mask], self.chance[mask])

    def halves(self, seed: int = 0) -> tuple[Rows, Rows]:
        first = np.random.default_rng(seed).permutation(len(self.item)) % 2 == 0
        return self.some(first), self.some(~first)

    def counts(self) -> Array:
        """(PLACES, ITEMS) rows of each."""
        counted = np.bincount(self.place * ITEMS + self.item, minlength=PLACES * ITEMS)
        return counted.reshape(PLACES, ITEMS).astype(np.float64)

    def truth(self) -> Estimate:
        found = interval(Proportion(len(self.clicked), int(self.clicked.sum())))
        assert isinstance(found, Estimate)
        return found

    def decisions(self, policy: Array) -> Decisions:
        """As `policy` (PLACES, ITEMS) would have chosen. The model is each item's click rate at each place in other rows."""
        weighed = weigh(self.chance[:, None], policy[self.place, self.item][:, None])
        assert not isinstance(weighed, NotComputable), weighed.reason
        unit = np.arange(len(self.item))
        fold = folds(unit)
        model = rates(self.place * ITEMS + self.item, PLACES * ITEMS, self.clicked, fold).reshape(-1, PLACES, ITEMS)
        expected = np.einsum("fpi,pi->fp", model, policy)[fold, self.place]
        before, weight = (one[:, 0] for one in weighed)
        return Decisions(unit, self.clicked, weight, before, model[fold, self.place, self.item], expected)


@dataclass(frozen=True)
class Row:
    """One estimate beside its truth. limited: what the tool answers; free: what it would without limits. policy_error: standard
    error from not knowing the evaluated policy, which the free interval contains."""

    direction: str
    name: str
    evaluation: Evaluation
    limited: Result
    free: Result
    policy_error: float
    truth: Estimate
    truth_rows: int

    @property
    def gap(self) -> float:
        """(estimate - truth) in standard errors of both."""
        assert isinstance(self.free, Estimate) and self.free.variance is not None
        own = self.truth.value * (1 - self.truth.value) / self.truth_rows
        return (self.free.value - self.truth.value) / math.sqrt(self.free.variance + own)


def both_ways(directory: Path) -> Iterator[Row]:
    uniform, thompson = Rows.read(directory, "random"), Rows.read(directory, "bts")
    yield from _compare("Thompson's log, uniform policy", thompson, UNIFORM, None, uniform)
    first, second = thompson.halves()
    for name, policy, truth in (("first", first, second), ("second", second, first)):
        counts = policy.counts()
        direction = f"uniform log, Thompson's policy from the {name} half"
        yield from _compare(direction, uniform, _shares(counts), counts, truth)


def _compare(direction: str, log: Rows, policy: Array, counts: Array | None, truth: Rows) -> Iterator[Row]:
    limited, free = (evaluate(log.decisions(policy), limits=limits) for limits in (LIMITS, NO_LIMITS))
    redrawn = _redrawn(log, counts) if counts is not None else dict.fromkeys(ESTIMATES, 0.0)
    for name in ESTIMATES:
        error = redrawn[name]
        yield Row(
            direction, name, limited, _widened(getattr(limited, name), error), _widened(getattr(free, name), error), error,
            truth.truth(), len(truth.item),
        )  # fmt: skip


def _redrawn(log: Rows, counts: Array) -> dict[str, float]:
    """Standard error of each estimate over policies estimated from rows drawn again, as many at each place."""
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {name: [] for name in ESTIMATES}
    for _ in range(_REDRAWN):
        again = np.array([rng.multinomial(int(one.sum()), one / one.sum()) for one in counts], dtype=np.float64)
        free = evaluate(log.decisions(_shares(again)), limits=NO_LIMITS)
        for name in ESTIMATES:
            one = getattr(free, name)
            assert isinstance(one, Estimate)
            found[name].append(one.value)
    return {name: float(np.std(values)) for name, values in found.items()}


def _widened(one: Result, error: float) -> Result:
    """By another, independent error."""
    if isinstance(one, NotComputable) or one.variance is None:
        return one
    variance = one.variance + error**2
    by = math.sqrt(variance / one.variance)
    return replace(
        one, low=one.value - by * (one.value - one.low), high=one.value + by * (one.high - one.value), variance=variance
    )


def _shares(counts: Array) -> Array:
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
