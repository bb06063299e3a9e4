"""Slates drawn instead of taken, with their chances on record: what off-policy estimates need (offpolicy.py).

    params: {explore: {temperature: 0.5, among: 20}}       # of an arm

The `among` best ads with a rank_score above 0 are the pool. Places are filled one after the other, each by an ad of what is left
of the pool with a chance proportional to rank_score ** (1 / temperature): Plackett-Luce (Plackett 1975, Applied Statistics 24).
Sorting log(rank_score) / temperature + Gumbel noise draws such an order (Yellott 1977, Journal of Mathematical Psychology 15).
A slate longer than the pool goes on with the other ads in rank order, which is certain: a propensity of 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import BadInput

Json = Any
Array = NDArray[np.float64]
Places = NDArray[np.int64]

DEFAULT_AMONG = 20
MAX_AMONG = 10_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """A slate. chosen: (k,) places among the candidates; propensities: (k,) chance of each, given those before it."""

    chosen: Places
    propensities: Array


@dataclass(frozen=True, slots=True)
class Explore:
    """temperature: near 0 the slate is the ranked one, 1 draws in proportion to rank_score, more is more even."""

    temperature: float
    among: int = DEFAULT_AMONG

    @classmethod
    def of(cls, params: Mapping[str, Json]) -> Self | None:
        """What an arm's params ask for, if anything. Raises BadInput naming what is wrong with it."""
        given = params.get("explore")
        if given is None:
            return None
        hint = "write {temperature: 0.5, among: 20}"
        if not isinstance(given, dict) or given.keys() - {"temperature", "among"} or "temperature" not in given:
            raise BadInput(f"explore: {given} is not {{temperature, among}}", hint)
        temperature, among = given["temperature"], given.get("among", DEFAULT_AMONG)
        if not _is_number(temperature) or not 0.01 <= temperature <= 100:
            raise BadInput(f"explore.temperature: {temperature!r} is not a number from 0.01 to 100", hint)
        if not isinstance(among, int) or isinstance(among, bool) or not 2 <= among <= MAX_AMONG:
            raise BadInput(f"explore.among: {among!r} is not a whole number from 2 to {MAX_AMONG:,}", hint)
        return cls(float(temperature), among)

    def draw(self, rank_scores: ArrayLike, k: int, seed: str) -> Drawn:
        """The slate of one request. rank_scores: (C,) in the order that breaks ties. The same seed draws the same slate."""
        order, logits = self._pool(rank_scores)
        noise = _generator(seed).gumbel(size=len(logits))
        drawn = np.argsort(-(logits + noise), kind="stable")
        left = _log_sums_of_what_is_left(logits[drawn])
        chosen = np.concatenate([order[drawn], order[len(drawn) :]])[:k]
        propensities = np.ones(len(chosen))
        propensities[: len(drawn)] = np.exp(logits[drawn] - left)[: len(chosen)]
        return Drawn(chosen, propensities)

    def chances(self, rank_scores: ArrayLike, slate: ArrayLike) -> Array:
        """(k, C): the chance of every candidate at every place of a slate, given what the slate has before it.

        rank_scores: (C,); slate: (k,) candidates, -1 for an ad that is none. After an ad that could not have been drawn there
        nothing is known of what would have followed, and the chances are 0."""
        order, logits = self._pool(rank_scores)
        weights = np.full(len(order), -np.inf)
        weights[order[: len(logits)]] = logits
        rest = list(order[len(logits) :])
        found = np.zeros((np.size(slate), len(order)))
        for place, one in enumerate(np.asarray(slate, dtype=np.int64)):
            if np.isfinite(weights).any():
                found[place] = np.exp(weights - np.logaddexp.reduce(weights))
            elif rest:
                found[place, rest.pop(0)] = 1.0
            if one < 0 or found[place, one] == 0:
                break
            weights[one] = -np.inf
        return found

    def _pool(self, rank_scores: ArrayLike) -> tuple[Places, Array]:
        """All candidates, best first; and (P,) log(rank_score) / temperature of the first P of them, which are drawn among,
        relative to the best."""
        scores = np.asarray(rank_scores, dtype=np.float64)
        order = np.argsort(-scores, kind="stable")
        best = scores[order[: self.among]]
        logits = np.log(best[best > 0]) / self.temperature
        return order, logits - logits[:1]


def _log_sums_of_what_is_left(logits: Array) -> Array:
    """(P,) in the order drawn -> log of the sum of weights over itself and all later ones."""
    return np.asarray(np.logaddexp.accumulate(logits[::-1])[::-1])


def _generator(seed: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=16).digest()))


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
