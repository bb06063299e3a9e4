"""Is one recipe better than another, or only luckier in its users? Differences of recipes on the same rows, with intervals.

What is drawn anew is the user: a resample takes as many users as there are, with replacement, and every row weighs as often
as its user was drawn. Rows of one user hang together, so an interval over rows would be far too narrow. All recipes meet the
same resamples, so what they share cancels in their difference. Inside a resample a recipe's metric is the mean over its seeds
(the interval covers users; the spread over seeds is told beside it), and a domain that lost a class there is left out of that
resample's mean, for all recipes alike.

Shapes: B rows, P positives and N negatives of a domain, U users, S resamples, D domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
LEVEL = 0.95
_SEED = 20_220_503
_TOGETHER = 64  # resamples at once: (rows, 64) float32 is read in whole cache lines; 35,000 rows, 1,000 resamples: .25 s
_CELLS = 2**24  # and fewer where rows are many: rows x resamples held at once
Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Difference:
    """recipe minus against. low, high: 95% of the resamples; spread: standard deviation over the seeds that both have."""

    metric: str
    scope: str
    recipe: str
    against: str
    difference: float
    low: float
    high: float
    spread: float | None


@dataclass(frozen=True)
class Rows:
    """What the rows of a test are, the same for every recipe. user: (B,) from 0; domain: (B,); label: (B,), None where rows are
    lists that already have a value each."""

    user: Ints
    domain: Ints
    label: Floats | None = None


def draw_users(users: int, resamples: int = RESAMPLES, seed: int = _SEED) -> NDArray[np.uint16]:
    """times_US: how often each user is drawn in each resample."""
    rng = np.random.default_rng(seed)
    times_US = np.empty((users, resamples), dtype=np.uint16)
    for at in range(resamples):
        times_US[:, at] = np.bincount(rng.integers(users, size=users), minlength=users)
    return times_US


def weighted_auc(label_B: Floats, score_B: Floats, user_B: Ints, times_US: Ints) -> Floats:
    """auc_S in every resample, ties counting half; NaN where a class has no weight left.

    Sorted once: a negative beats no positive above it, so with C the running weight of the sorted positives,
    AUC = sum over negatives of w (total - (C[first not below] + C[first above]) / 2) / (total w of positives x negatives).
    """
    positive = label_B > 0
    order = np.argsort(score_B[positive], kind="stable")
    above_P, user_P = score_B[positive][order], user_B[positive][order]
    order = np.argsort(score_B[~positive], kind="stable")  # in order, so that C is read from one end to the other
    below_N, user_N = score_B[~positive][order], user_B[~positive][order]
    first_N, last_N = (np.searchsorted(above_P, below_N, side=side) for side in ("left", "right"))
    tied = bool((first_N != last_N).any())
    auc_S = np.full(times_US.shape[1], np.nan)
    together = max(1, min(_TOGETHER, _CELLS // len(label_B)))
    for start in range(0, times_US.shape[1], together):
        times = times_US[:, start : start + together].astype(np.float32)
        weight_Ps, weight_Ns = times[user_P], times[user_N]
        running = np.zeros((len(above_P) + 1, times.shape[1]), dtype=np.float32)  # whole numbers: exact up to 16 million rows
        np.cumsum(weight_Ps, axis=0, out=running[1:])
        total, negatives = running[-1].astype(np.float64), weight_Ns.sum(axis=0, dtype=np.float64)
        under = (running[first_N] + running[last_N]) / 2 if tied else running[first_N]
        lost = (weight_Ns * under).sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            auc_S[start : start + together] = 1.0 - lost / (total * negatives)
    return auc_S


def weighted_mean(value_B: Floats, user_B: Ints, times_US: Ints) -> Floats:
    """mean_S of a value a row in every resample; NaN where no row has weight."""
    users = times_US.shape[0]
    sums, counts = np.bincount(user_B, value_B, users), np.bincount(user_B, minlength=users).astype(np.float64)
    present = counts > 0
    times = times_US[present].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums[present] @ times) / (counts[present] @ times))


def by_domain(rows: Rows, value_B: Floats, domains: int, times_US: Ints) -> Floats:
    """metric_DS of one trained model: AUC of its scores where rows have labels, else the mean of its values."""
    found = np.full((domains, times_US.shape[1]), np.nan)
    for domain in np.unique(rows.domain):
        own = rows.domain == domain
        if rows.label is None:
            found[domain] = weighted_mean(value_B[own], rows.user[own], times_US)
        elif 0 < (rows.label[own] > 0).sum() < own.sum():
            found[domain] = weighted_auc(rows.label[own], value_B[own], rows.user[own], times_US)
    return found


def differences(
    metric: str,
    rows: Rows,
    values: Mapping[str, Mapping[int, Floats]],
    scopes: Mapping[str, Sequence[int]],
    against: str,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Every recipe minus `against`, and the best (by the first scope) minus every other, in every scope.

    values: recipe -> seed -> value_B; scopes: name -> the domains its mean is over. A scope that no row belongs to is left out.
    """
    if len(values) < 2 or len(rows.user) == 0:
        return []
    users, user = np.unique(rows.user, return_inverse=True)
    rows = Rows(user, rows.domain, rows.label)
    domains = 1 + max(one for scope in scopes.values() for one in scope)
    ones = np.ones((len(users), 1), dtype=np.uint16)
    times_US = np.concatenate([ones, draw_users(len(users), resamples)], axis=1)  # column 0: the test as it is
    metric_of = {
        (name, seed): by_domain(rows, value, domains, times_US) for name, seeds in values.items() for seed, value in seeds.items()
    }
    found: list[Difference] = []
    best = ""
    for scope, inside in scopes.items():
        whole = {key: _mean(one[list(inside)]) for key, one in metric_of.items()}
        if any(np.isnan(one[0]) or np.isnan(one[1:]).all() for one in whole.values()):
            continue
        over_seeds = {name: np.mean([whole[name, seed] for seed in seeds], axis=0) for name, seeds in values.items()}
        best = best or max(over_seeds, key=lambda name: float(over_seeds[name][0]))  # by the first scope
        pairs = dict.fromkeys([(name, against) for name in values] + [(best, name) for name in values])
        for name, other in pairs:
            if name != other:
                drawn = over_seeds[name] - over_seeds[other]
                drawn = drawn[~np.isnan(drawn)]  # a resample may have lost every domain of the scope
                low, high = np.quantile(drawn[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
                both = [whole[name, seed][0] - whole[other, seed][0] for seed in values[name] if seed in values[other]]
                spread = float(np.std(both, ddof=1)) if len(both) > 1 else None
                found.append(Difference(metric, scope, name, other, float(drawn[0]), float(low), float(high), spread))
    return found


def _mean(metric_DS: Floats) -> Floats:
    """Over the domains that exist in each resample."""
    known = ~np.isnan(metric_DS)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, metric_DS, 0.0).sum(axis=0) / known.sum(axis=0))
