"""Which probabilities were served, counted after the answer: the bundle's first hour in a domain is what later hours are
compared with (server/admin_drift.py).

    drift:{bundle_id}:{domain}:first       since, answers, unseen, ads, sum of p_click, and a count a bin
    drift:{bundle_id}:{domain}:{hour}      the same of one hour since 1970, without `since`

Why not the log that the bundle was trained on: there, other policies chose the ads. What a bundle serves is its own choice from
its first answer on. Answers from a lower rung are left out: they have alarms of their own. Workers, of this machine and others,
add to the same hashes every half minute; a lost reply may count half a minute twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.keys import served_scores
from server.exposures import Shown
from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")

# Even in log-odds, from 3 in 10,000 to 98 in 100: a probability twice another lies two or three bins from it.
EDGES = tuple(1 / (1 + math.exp(8 - 0.3 * at)) for at in range(41))
FIRST = "first"
FLUSH_SECONDS = 30.0
_FIRST_LIVES = 90 * 86_400  # since the bundle served last
HOURS = 24
_HOUR_LIVES = (HOURS + 1) * 3_600

Key = tuple[str, str]
"""bundle_id, domain"""


@dataclass(slots=True)
class Counts:
    """answers: ranked ones; unseen: those of them to users without a row; bins: ads by p_click, len(EDGES) + 1 of them."""

    answers: int = 0
    unseen: int = 0
    p_sum: float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))

    @property
    def ads(self) -> int:
        return sum(self.bins)

    def add(self, other: Counts) -> None:
        self.answers += other.answers
        self.unseen += other.unseen
        self.p_sum += other.p_sum
        self.bins = [mine + theirs for mine, theirs in zip(self.bins, other.bins, strict=True)]

    @classmethod
    def of(cls, fields: dict[bytes, bytes]) -> Counts:
        """A stored hash. Raises ValueError when a number is none."""
        bins = [int(fields.get(b"%d" % at, 0)) for at in range(len(EDGES) + 1)]
        return cls(int(fields.get(b"answers", 0)), int(fields.get(b"unseen", 0)), float(fields.get(b"p_sum", 0)), bins)


class Scores:
    """reference_seconds: length of a bundle's first time in a domain."""

    def __init__(
        self, client: Client, metrics: Metrics, reference_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._client, self._metrics, self._clock = client, metrics, clock
        self.reference_seconds = reference_seconds
        self._held: dict[Key, Counts] = {}
        self._since: dict[Key, float] = {}

    def add(self, shown: Shown) -> None:
        answer = shown.answer
        if answer.degraded or not answer.ads or answer.ads[0].p_click is None:
            return
        key = (answer.bundle_id, answer.domain)
        counts = self._held.get(key)
        if counts is None:
            counts = self._held[key] = Counts()
        counts.answers += 1
        counts.unseen += shown.stranger
        bins, p_sum = counts.bins, 0.0
        for ad in answer.ads:
            p_click = ad.p_click
            if p_click is not None:
                bins[bisect_right(EDGES, p_click)] += 1
                p_sum += p_click
        counts.p_sum += p_sum

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except FAILURES as error:
                _log.warning("counts of served scores wait for Redis: %s", error)
                self._metrics.background_errors.labels("scores").inc()

    async def flush(self) -> None:
        """Raises a redis failure; what was not written is kept."""
        for key in list(self._held):
            counts = self._held.pop(key, None)
            if counts is None:
                continue
            try:
                await self._write(key, counts)
            except FAILURES:
                counts.add(self._held.get(key, Counts()))
                self._held[key] = counts
                raise

    async def _write(self, key: Key, counts: Counts) -> None:
        now, first = self._clock(), served_scores(*key, FIRST)
        since = self._since.get(key) or await self._began(key, first, now)
        early = now - since < self.reference_seconds
        name = first if early else served_scores(*key, str(int(now // 3600)))
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hincrby(name, "answers", counts.answers)
            pipe.hincrby(name, "unseen", counts.unseen)
            pipe.hincrbyfloat(name, "p_sum", counts.p_sum)
            for at, count in enumerate(counts.bins):
                if count:
                    pipe.hincrby(name, str(at), count)
            if not early:
                pipe.expire(name, _HOUR_LIVES)
            pipe.expire(first, _FIRST_LIVES)
            await pipe.execute()

    async def _began(self, key: Key, first: str, now: float) -> float:
        """When any worker wrote first of this bundle in this domain."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hsetnx(first, "since", now)
            pipe.hget(first, "since")
            _, stored = await pipe.execute()
        since = self._since[key] = float(stored)
        return since
