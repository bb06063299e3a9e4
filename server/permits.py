"""Admission: a bounded number of requests in work, a short queue behind it, and an honest 503 beyond."""

from __future__ import annotations

import asyncio
from types import TracebackType

from server.errors import overloaded
from server.metrics import Metrics


class Permits:
    """`async with permits:` raises the 503 problem when the queue is full or the wait too long."""

    def __init__(self, concurrent: int, queue: int, timeout_ms: float, retry_after_seconds: int, metrics: Metrics) -> None:
        self._free = asyncio.Semaphore(concurrent)
        self._queue, self._timeout_seconds, self._retry_after = queue, timeout_ms / 1000, retry_after_seconds
        self._metrics = metrics
        self.waiting = 0

    async def __aenter__(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # does not wait
            return
        if self.waiting >= self._queue:
            self._metrics.shed.labels("queue_full").inc()
            raise overloaded("overloaded", f"{self.waiting} requests are already waiting", self._retry_after)
        self.waiting += 1
        self._metrics.queue_depth.inc()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._free.acquire()
        except TimeoutError:
            self._metrics.shed.labels("queue_timeout").inc()
            raise overloaded("overloaded", "no permit came free in time", self._retry_after) from None
        finally:
            self.waiting -= 1
            self._metrics.queue_depth.dec()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._free.release()
