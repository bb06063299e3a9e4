"""The last minutes, read from counters: snapshots of all workers' sums at even distances, and differences between them.

Prometheus values only grow; what happened lately is what they grew by. With several workers the sums come from the files that
they share (server/metrics.py), so whichever worker is asked answers for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from server.metrics import Metrics, Series

# A snapshot of two workers with four domains and two recipes, 1,015 series, takes 28 ms of processor time: in a thread, and no
# more often than this it is a two-thousandth of a worker's.
EVERY_SECONDS = 60.0
KEPT = 12  # ten minutes and the one under way


@dataclass(frozen=True)
class Grown:
    """By how much each series grew in the last `seconds`; total: since the gateway started."""

    seconds: float
    recent: Mapping[Series, float]
    total: Mapping[Series, float]

    def of(self, name: str) -> Iterator[tuple[dict[str, str], float, float]]:
        """(labels, recent, total) of each series of a name."""
        for (found, labels), value in self.total.items():
            if found == name:
                yield dict(labels), self.recent[found, labels], value


class Recent:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._places: dict[Series, int] = {}  # a snapshot holds values alone
        self._taken: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._taken.append(await self._take())
            await asyncio.sleep(EVERY_SECONDS)

    async def grown(self, seconds: float) -> Grown:
        """Since the snapshot that lies `seconds` back, or since the oldest one."""
        at, now = await self._take()
        then, before = self._then(at - seconds) or (at, now)
        then_all = np.zeros(len(now))
        then_all[: len(before)] = before
        grown = np.maximum(now - then_all, 0.0)
        places = dict(self._places)
        return Grown(
            at - then,
            {series: float(grown[place]) for series, place in places.items()},
            {series: float(now[place]) for series, place in places.items()},
        )

    def _then(self, moment: float) -> tuple[float, NDArray[np.float64]] | None:
        """The youngest snapshot that is as old, else the oldest."""
        old = [one for one in self._taken if one[0] <= moment]
        return old[-1] if old else self._taken[0] if self._taken else None

    async def _take(self) -> tuple[float, NDArray[np.float64]]:
        at, found = monotonic(), await asyncio.to_thread(self._metrics.counted)
        for series in found:
            self._places.setdefault(series, len(self._places))
        values = np.zeros(len(self._places))
        for series, value in found.items():
            values[self._places[series]] = value
        return at, values


def percentile(share: float, buckets: list[tuple[float, float]]) -> float | None:
    """buckets: (upper bound, observations up to it), rising, the last bound infinite. Linear inside a bucket; the last finite
    bound for what lies above it; None without observations."""
    count = buckets[-1][1] if buckets else 0.0
    if count <= 0:
        return None
    wanted = share * count
    lower, below = 0.0, 0.0
    for bound, upto in buckets:
        if upto >= wanted and upto > below:
            return lower if bound == float("inf") else lower + (bound - lower) * (wanted - below) / (upto - below)
        if bound != float("inf"):
            lower = bound
        below = upto
    return lower
