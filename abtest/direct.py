"""Predictions of rewards for the doubly robust estimate. Where a model is fitted to the log that it is then used on, each
decision's prediction comes from other users (cross-fitting: Chernozhukov et al. 2018, The Econometrics Journal 21(1), 3.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5


def folds(unit: Ints, seed: int = 0) -> Ints:
    """(n,) number of each decision's fold; a unit's decisions share one."""
    known, place = np.unique(unit, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(known))[place] % FOLDS


def rates(cell: Ints, cells: int, reward: Array, fold: Ints, prior: float = 100.0) -> Array:
    """(FOLDS, cells) mean reward of each cell in the other folds, drawn to their overall mean as by `prior` more of it."""
    return _over_the_others(cell, cells, reward, np.ones(len(reward)), fold, prior)


def corrections(place: Ints, places: int, reward: Array, predicted: Array, fold: Ints, prior: float = 20.0) -> Array:
    """(FOLDS, places) observed / predicted reward at each place of a slate in the other folds, drawn to the overall ratio as by
    `prior` more predicted rewards. What a model of clicks leaves out is how far down an ad stands."""
    return _over_the_others(place, places, reward, predicted, fold, prior)


def _over_the_others(cell: Ints, cells: int, top: Array, bottom: Array, fold: Ints, prior: float) -> Array:
    at = fold * cells + cell
    tops, bottoms = (np.bincount(at, weights=x, minlength=FOLDS * cells).reshape(FOLDS, cells) for x in (top, bottom))
    tops, bottoms = tops.sum(axis=0) - tops, bottoms.sum(axis=0) - bottoms
    total = bottoms.sum(axis=1, keepdims=True)
    overall = np.divide(tops.sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=total > 0)
    return np.asarray((tops + prior * overall) / (bottoms + prior))
