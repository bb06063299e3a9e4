"""What another policy would have earned, from what a policy with known chances showed.

A decision is one place of one answer. With w = chance under the evaluated policy / chance under the logging one, r the reward,
q a model's prediction of it, over n decisions:

    IPS    sum w r / n                              Horvitz & Thompson 1952, JASA 47; Dudik, Langford & Li 2011, ICML
    SNIPS  sum w r / sum w                          Hajek 1971; Swaminathan & Joachims 2015, NeurIPS
    DM     sum E_evaluated[q] / n                   Dudik, Langford & Li 2011
    DR     sum (E_evaluated[q] + w (r - q)) / n     Robins & Rotnitzky 1995, JASA 90; Dudik, Langford & Li 2011

In a slate, w of a place is the product of the ratios of that place and those before it: a click may depend on what stands above,
not on what stands below (McInerney et al. 2020, KDD, arXiv 2007.12986; with a model Kiyohara et al. 2022, WSDM,
arXiv 2202.01562), and E_evaluated[q], which is taken given what stands above, is weighted by the product of those before it.

Users are the units: each estimate is a ratio of two sums over users (skewed.py has its interval).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from abtest.estimate import Estimate, Result
from abtest.skewed import skewed_interval
from abtest.stats import NotComputable

Array = NDArray[np.float64]

_TOLERATED = 0.05  # of the evaluated policy's choices may be such as the log cannot contain
_CERTAIN = 0.997  # two-sided: three standard errors


@dataclass(frozen=True)
class Limits:
    """Below these nothing is computed. users: effective, by weights; share: of the effective users that equal weights would
    leave; rewarded: effective users with a reward, by weighted rewards.

    Simulated 95% intervals (`python -m loadtests.offpolicy`) cover 93.8% to 95.8% in worlds that pass them; at shares of .12
    to .17, 86% to 90%, however many the users; around 100 effective users, 92% to 95%. A log may miss the large weights by
    chance and pass: of a world refused in nine logs of ten, intervals of the tenth cover 85% to 90%."""

    users: float = 150.0
    share: float = 0.25
    rewarded: float = 15.0


LIMITS = Limits()
NO_LIMITS = Limits(0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Decisions:
    """n decisions. unit: (n,) whose they are, whole numbers; reward: (n,); weight: (n,), w above; before: (n,) the same
    product without the decision itself (1 in a slate's first place); predicted, expected: (n,) q of what was shown and
    E_evaluated[q], both or neither."""

    unit: NDArray[np.int64]
    reward: Array
    weight: Array
    before: Array
    predicted: Array | None = None
    expected: Array | None = None


@dataclass(frozen=True)
class Evaluation:
    """Rewards a decision. logged: of the policy that showed them; ips, snips, doubly_robust: of the evaluated one; direct: what
    the model says alone, whose error no interval of users tells; mean_weight: 1 but for chance where the log covers what the
    evaluated policy chooses; effective_users, effective_rewarded: `effective` of users' weights, of their weighted
    rewards; share_left: the first, of what equal weights would leave."""

    decisions: int
    users: int
    effective_users: float
    effective_rewarded: float
    share_left: float
    mean_weight: Result
    logged: Result
    ips: Result
    snips: Result
    doubly_robust: Result
    direct: float | NotComputable

    @classmethod
    def none(cls, reason: NotComputable) -> Evaluation:
        return cls(0, 0, 0.0, 0.0, 0.0, reason, reason, reason, reason, reason, reason)


def weigh(logged: ArrayLike, evaluated: ArrayLike) -> tuple[Array, Array] | NotComputable:
    """(before, weight) of decisions, each (L, K). logged, evaluated: (L, K) chance of each place's ad given those before it,
    under either policy; single decisions are (L, 1). A logged chance that is unknown or none is no evidence for anything."""
    ours, theirs = np.asarray(logged, dtype=np.float64), np.asarray(evaluated, dtype=np.float64)
    wrong = int(np.count_nonzero(~((ours > 0) & (ours <= 1 + 1e-9))))
    if wrong:
        return NotComputable(f"{wrong:,} of {ours.size:,} logged propensities are missing or outside (0, 1]")
    weight = np.asarray(np.cumprod(theirs / ours, axis=1), dtype=np.float64)
    return np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1), weight


def evaluate(decisions: Decisions, confidence: float = 0.95, limits: Limits = LIMITS) -> Evaluation:
    """Every estimate, or why there is none."""
    one = decisions
    totals = _Totals.of(one.unit)
    count, weights, rewards = (totals.sum(x) for x in (np.ones(len(one.unit)), one.weight, one.weight * one.reward))
    mean_weight = skewed_interval(weights, count, _CERTAIN)
    users, rewarded = effective(weights), effective(rewards)
    share = users / effective(count) if len(count) else 0.0
    reason = _refusal(len(one.unit), mean_weight, users, share, rewarded, limits)

    def result(terms: Array | None, over: Array) -> Result:
        if reason is not None:
            return reason
        if terms is None:
            return NotComputable("no model predicts rewards")
        return skewed_interval(totals.sum(terms), over, confidence)

    return Evaluation(
        decisions=len(one.unit),
        users=len(count),
        effective_users=users,
        effective_rewarded=rewarded,
        share_left=share,
        mean_weight=mean_weight,
        logged=skewed_interval(totals.sum(one.reward), count, confidence),
        ips=result(one.weight * one.reward, count),
        snips=result(one.weight * one.reward, weights),
        doubly_robust=result(_doubly_robust(one), count),
        direct=_direct(one),
    )


def effective(values: Array) -> float:
    """How many equal values would say as much: (sum x)^2 / sum x^2; 0 of none (Kish 1965, Survey Sampling, 8.2; of importance
    weights Kong 1992, Chicago, report 348)."""
    squares = float(values @ values)
    return float(values.sum()) ** 2 / squares if squares > 0 else 0.0


def _refusal(
    decisions: int, mean_weight: Result, users: float, share: float, rewarded: float, limits: Limits
) -> NotComputable | None:
    if not decisions:
        return NotComputable("no decisions with a logged propensity")
    if users == 0:
        return NotComputable("the evaluated policy chooses nothing that was shown")
    if users < limits.users:
        return NotComputable(f"the weights leave {users:.1f} effective users; it takes {limits.users:g}")
    if share < limits.share:
        return NotComputable(f"the weights leave {share:.1%} of the users' evidence; it takes {limits.share:.0%}")
    if isinstance(mean_weight, Estimate) and mean_weight.high < 1 - _TOLERATED:
        return NotComputable(f"weights average {mean_weight.value:.3f}: the log does not contain all that is chosen")
    if isinstance(mean_weight, Estimate) and mean_weight.low > 1 + _TOLERATED:
        return NotComputable(f"weights average {mean_weight.value:.3f}: the propensities are wrong")
    if rewarded == 0 or rewarded < limits.rewarded:
        return NotComputable(f"{rewarded:.1f} effective users with a reward; it takes {limits.rewarded:g}")
    return None


def _doubly_robust(one: Decisions) -> Array | None:
    if one.predicted is None or one.expected is None:
        return None
    return one.before * one.expected + one.weight * (one.reward - one.predicted)


def _direct(one: Decisions) -> float | NotComputable:
    if one.expected is None:
        return NotComputable("no model predicts rewards")
    if not len(one.unit):
        return NotComputable("no decisions with a logged propensity")
    return float((one.before * one.expected).mean())


@dataclass(frozen=True, eq=False)
class _Totals:
    """Sums over each unit's decisions."""

    place: NDArray[np.int64]
    units: int

    @classmethod
    def of(cls, unit: NDArray[np.int64]) -> _Totals:
        known, place = np.unique(unit, return_inverse=True)
        return cls(place.astype(np.int64), len(known))

    def sum(self, values: Array) -> Array:
        found = np.bincount(self.place, weights=values, minlength=self.units)
        return found.astype(np.float64)
