"""Counts that all workers add up in Redis: held in memory, written together after the answers.

A write is one transaction, and what could not be written is kept and written with the next. A write that was done and whose reply
was lost counts twice: for a share of answers that is small beside what it is judged by.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable

from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")

_MOST_MEMBERS = 50_000  # of sets, held while Redis is away


class SharedCounts:
    """name: of the task, in `mdrec_background_errors_total`."""

    def __init__(self, client: Client, metrics: Metrics, name: str) -> None:
        self._client, self._metrics, self._name = client, metrics, name
        self._hashes: dict[str, defaultdict[str, float]] = {}
        self._members: defaultdict[str, set[str]] = defaultdict(set)
        self._seconds: dict[str, int] = {}

    def add(self, key: str, fields: Iterable[tuple[str, float]], keep_seconds: int) -> None:
        """Never waits and never fails. keep_seconds: after the last count."""
        counts = self._hashes.get(key)
        if counts is None:
            counts = self._hashes[key] = defaultdict(float)
        for name, value in fields:
            counts[name] += value
        self._seconds[key] = keep_seconds

    def see(self, key: str, member: str, keep_seconds: int) -> None:
        """Count distinct members, approximately (a HyperLogLog)."""
        members = self._members[key]
        if len(members) < _MOST_MEMBERS:
            members.add(member)
        self._seconds[key] = keep_seconds

    async def run(self, pause_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(pause_seconds)
            await self.flush()

    async def flush(self) -> None:
        """Never raises."""
        if not self._seconds:
            return
        hashes, self._hashes = self._hashes, {}
        members, self._members = self._members, defaultdict(set)
        seconds, self._seconds = self._seconds, {}
        try:
            for key, life in seconds.items():  # one transaction a key, so that keys may lie in different slots of a cluster
                async with self._client.pipeline(transaction=True) as pipe:
                    for name, value in hashes.get(key, {}).items():
                        if float(value).is_integer():
                            pipe.hincrby(key, name, int(value))
                        else:
                            pipe.hincrbyfloat(key, name, value)
                    if key in members:
                        pipe.pfadd(key, *members[key])
                    pipe.expire(key, life)
                    await pipe.execute()
                hashes.pop(key, None)
                members.pop(key, None)
        except FAILURES as error:
            _log.warning("counts of %s wait for Redis: %s", self._name, error)
            self._metrics.background_errors.labels(self._name).inc()
            for key, counts in hashes.items():
                self.add(key, counts.items(), seconds[key])
            for key, found in members.items():
                for member in found:
                    self.see(key, member, seconds[key])
