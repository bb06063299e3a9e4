"""Explored slates of simulated users whose truth is known exactly, for off-policy estimates to be held against.

A user comes as often as he likes and clicks as often as he is inclined; a click is likelier on a good ad, less so further down,
and less so when an ad of the same class stands above. Two recipes score the ads of each context, each with errors of its own.
With eight ads and three places every slate can be listed, so the evaluated recipe's click rate is a sum, not an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from abtest.explore import Explore
from abtest.offpolicy import Decisions, weigh
from abtest.stats import NotComputable

Array = NDArray[np.float64]
ADS, PLACES, CONTEXTS, CLASSES = 8, 3, 6, 3
_SEEN = np.array([1.0, 0.7, 0.5])  # click rate by place, relative to the first
_TIRED = 0.6  # click rate below another ad of the class, relative to none
_VISITS = 5.0  # answers a user


@dataclass(frozen=True)
class SlateWorld:
    """users; click_rate: of a middling ad in the first place; logged, evaluated: temperatures of the two recipes; apart: the
    errors of their scores, each a log-normal with this deviation."""

    users: int = 2_000
    click_rate: float = 0.05
    logged: float = 1.0
    evaluated: float = 0.5
    apart: float = 0.4


@dataclass(frozen=True, eq=False)
class Law:
    """A world in full. Of each context (C) and slate (S): logged: (C, S) chance under the logging recipe; before, weight:
    (C, S, K) as offpolicy.weigh; clicks: (C, S, K) chance of a click by a user of middling inclination; predicted, expected:
    (C, S, K) of a model that is wrong. truth: clicks a decision under the evaluated recipe."""

    world: SlateWorld
    logged: Array
    before: Array
    weight: Array
    clicks: Array
    predicted: Array
    expected: Array
    truth: float

    def draw(self, rng: np.random.Generator) -> Decisions:
        """One log."""
        users = self.world.users
        visits = rng.poisson(rng.gamma(2.0, _VISITS / 2, users))
        inclination = rng.gamma(4.0, 0.25, users)
        user = np.repeat(np.arange(users), visits)
        context = rng.integers(0, len(self.logged), len(user))
        contexts, slates = self.logged.shape
        ends = (np.minimum(self.logged.cumsum(axis=1), 1.0) + np.arange(contexts)[:, None]).ravel()
        slate = np.minimum(np.searchsorted(ends, context + rng.random(len(user))) - context * slates, slates - 1)
        clicked = rng.random((len(user), PLACES)) < self.clicks[context, slate] * inclination[user][:, None]
        columns = (clicked.astype(np.float64), *(one[context, slate] for one in (self.weight, self.before)))
        model = (one[context, slate].ravel() for one in (self.predicted, self.expected))
        return Decisions(np.repeat(user, PLACES), *(one.ravel() for one in columns), *model)


def law(world: SlateWorld, seed: int = 0) -> Law:
    """seed: of the ads and the recipes' errors."""
    rng = np.random.default_rng(seed)
    rates = world.click_rate * rng.lognormal(-0.125, 0.5, (CONTEXTS, ADS))
    ours, theirs = (rates * rng.lognormal(0, world.apart, rates.shape) for _ in range(2))
    model = 0.7 * rates * rng.lognormal(0, 0.2, rates.shape)
    slates = np.array(list(permutations(range(ADS), PLACES)))
    logged, _ = _chances(Explore(world.logged, ADS), ours, slates)
    evaluated, every = _chances(Explore(world.evaluated, ADS), theirs, slates)
    found = weigh(logged.reshape(-1, PLACES), evaluated.reshape(-1, PLACES))
    assert not isinstance(found, NotComputable)
    before, weight = (one.reshape(logged.shape) for one in found)
    clicks = rates[:, slates] * _SEEN * np.where(_of_a_class_above(slates), _TIRED, 1.0)
    truth = float((evaluated.prod(axis=2, keepdims=True) * clicks).sum(axis=1).mean())
    expected = np.einsum("cska,ca->csk", every, model)
    return Law(world, logged.prod(axis=2), before, weight, clicks, model[:, slates], expected, truth)


def _chances(explore: Explore, scores: Array, slates: NDArray[np.int64]) -> tuple[Array, Array]:
    """(C, S, K) of each slate's ads given those before, and (C, S, K, A) of every ad there."""
    every = np.array([[explore.chances(one, slate) for slate in slates] for one in scores])
    return np.take_along_axis(every, slates[None, :, :, None], axis=3)[..., 0], every


def _of_a_class_above(slates: NDArray[np.int64]) -> NDArray[np.bool_]:
    classes = slates % CLASSES
    same = classes[:, :, None] == classes[:, None, :]
    return np.asarray(np.tril(same, k=-1).any(axis=2))
