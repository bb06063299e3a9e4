"""Admission: a bounded number of requests in work, a short queue behind it, and an honest 503 beyond.

Each domain may hold a share of both, so that a spike in one leaves room for the others.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.errors import overloaded
from server.metrics import Metrics


@dataclass(slots=True, eq=False)
class _Waiter:
    domain: str
    admitted: asyncio.Future[None]


class Permits:
    """`async with permits.of(domain):` raises the 503 problem when the queue is full or the wait too long."""

    def __init__(
        self,
        concurrent: int,
        queue: int,
        domain_share: float,
        timeout_ms: float,
        retry_after_seconds: int,
        metrics: Metrics,
    ) -> None:
        self._free = concurrent
        self._queue = queue
        self._domain_concurrent, self._domain_queue = math.ceil(concurrent * domain_share), math.ceil(queue * domain_share)
        self._timeout_seconds, self._retry_after = timeout_ms / 1000, retry_after_seconds
        self._metrics = metrics
        self._waiting: deque[_Waiter] = deque()
        self._held: Counter[str] = Counter()  # by domain; as many keys as requests in work, whatever clients send
        self._queued: Counter[str] = Counter()

    @property
    def in_work(self) -> int:
        return self._held.total()

    def scarce(self, share: float) -> bool:
        """Is more than `share` of the permits taken, or does anybody wait for one?"""
        return bool(self._waiting) or self._held.total() > share * (self._held.total() + self._free)

    @asynccontextmanager
    async def of(self, domain: str) -> AsyncIterator[None]:
        if self._admissible(domain):
            self._take(domain)
        else:
            await self._wait(domain)
        try:
            yield
        finally:
            self._release(domain)

    def _admissible(self, domain: str) -> bool:
        return self._free > 0 and self._held[domain] < self._domain_concurrent

    def _take(self, domain: str) -> None:
        self._free -= 1
        self._held[domain] += 1

    def _release(self, domain: str) -> None:
        self._free += 1
        self._forget(self._held, domain)
        self._admit()

    async def _wait(self, domain: str) -> None:
        """Until admitted; `_admit` takes the permit on our behalf."""
        if len(self._waiting) >= self._queue or self._queued[domain] >= self._domain_queue:
            raise self._shed("queue_full", "too many requests are already waiting")
        waiter = _Waiter(domain, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._queued[domain] += 1
        self._metrics.queue_depth.inc()
        try:
            await asyncio.wait({waiter.admitted}, timeout=self._timeout_seconds)
        except asyncio.CancelledError:
            if waiter.admitted.done():  # the permit came and nobody is there to take it
                self._release(domain)
            raise
        finally:
            self._forget(self._queued, domain)
            self._metrics.queue_depth.dec()
            if not waiter.admitted.done():
                self._waiting.remove(waiter)
        if not waiter.admitted.done():
            raise self._shed("queue_timeout", "no permit came free in time")

    def _admit(self) -> None:
        """Hand free permits to the first waiters whose domains may hold one more."""
        for waiter in [one for one in self._waiting if self._free > 0]:
            if self._admissible(waiter.domain):
                self._take(waiter.domain)
                self._waiting.remove(waiter)
                waiter.admitted.set_result(None)

    def _shed(self, reason: str, detail: str) -> Exception:
        self._metrics.shed.labels(reason).inc()
        return overloaded("overloaded", detail, self._retry_after)

    @staticmethod
    def _forget(counts: Counter[str], domain: str) -> None:
        counts[domain] -= 1
        if counts[domain] <= 0:
            del counts[domain]
