"""What the arms of canaries did, counted for all workers, and the watcher's turn.

Only a domain with a running canary pays for it: an answer there adds a few numbers in memory, which are written to Redis every
second. The worker that holds the lease reads what all wrote, judges and rolls back (abtest/canary_watch.py), in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import redis

from abtest.assign import Assignment
from abtest.canary import canaries, domain_of, running
from abtest.canary_watch import KEEP_SECONDS, Watcher
from abtest.definitions import Definitions
from abtest.histogram import MILLISECONDS, PROBABILITIES
from abtest.verdict import Side
from contracts.errors import MdrecError
from contracts.keys import canary_counts, canary_users
from contracts.schema import UNKNOWN
from server.metrics import Metrics
from server.shared_counts import SharedCounts
from server.stages import Work
from server.swap import Registry

_log = logging.getLogger("mdrec.server")

_MINUTE_SECONDS = 3600  # how long the counts of one minute are kept
_LEASE_LOOKS = 5
_REDIS_SECONDS = 5.0


class Canaries:
    """Counts what the arms of running canaries did, and watches when it is this worker's turn."""

    def __init__(self, counts: SharedCounts, registry: Registry, metrics: Metrics, redis_url: str) -> None:
        self._counts, self._registry, self._metrics, self._redis_url = counts, registry, metrics, redis_url
        self._by_domain: Mapping[str, frozenset[str]] = {}
        self._bundle: Mapping[str, str | None] = {}
        self._ended: dict[str, str] = {}
        self._who = f"{os.getpid()}-{uuid.uuid4().hex}"

    @property
    def domains(self) -> frozenset[str]:
        return frozenset(self._by_domain)

    def follow(self, definitions: Definitions) -> None:
        """New definitions are in force here."""
        by_domain: dict[str, set[str]] = {}
        rules = running(definitions)
        for key, rule in rules.items():
            by_domain.setdefault(domain_of(rule), set()).add(key)
        self._by_domain = {domain: frozenset(keys) for domain, keys in by_domain.items()}
        self._bundle = {key: rule.variations[1].get("bundle") for key, rule in rules.items()}
        self._count_ended(definitions)

    def _count_ended(self, definitions: Definitions) -> None:
        ended = {
            key: domain_of(rule)
            for key, rule in canaries(definitions).items()
            if rule.canary is not None and rule.canary.outcome is not None and rule.canary.outcome.action == "rolled back"
        }
        for key, domain in (self._ended | ended).items():
            self._metrics.canary_rolled_back.labels(key, domain).set(key in ended)
        self._ended = ended

    def answered(
        self, domain: str, user_id: str, arms: Sequence[Assignment], work: Work, degraded: Sequence[str], milliseconds: float
    ) -> None:
        """degraded: all rungs of the answer."""
        one = self._met(domain, arms)
        if one is None:
            return
        if "recipe" in degraded and self._registry.loading(self._bundle.get(one.experiment)):
            return  # the first seconds of a canary: the worker has not loaded its bundle, which says nothing of the bundle
        side = Side(1, 0, bool(degraded), not len(work.chosen), _unseen(work))
        side.latency[MILLISECONDS.bin(milliseconds)] += 1
        if work.p_click is not None and len(work.chosen):
            side.scores[PROBABILITIES.bin(float(np.mean(work.p_click[work.chosen])))] += 1
        self._add(one, domain, side, "degraded" if degraded else "empty" if side.empty else "ok")
        if one.arm == "canary":
            self._counts.see(canary_users(one.experiment), user_id, KEEP_SECONDS)

    def failed(self, domain: str, arms: Sequence[Assignment]) -> None:
        """A request of this domain raised what is no fault of the caller's."""
        one = self._met(domain, arms)
        if one is not None:
            self._add(one, domain, Side(1, 1), "failed")

    def _met(self, domain: str, arms: Sequence[Assignment]) -> Assignment | None:
        keys = self._by_domain.get(domain, frozenset())
        return next((one for one in arms if one.experiment in keys), None)

    def _add(self, one: Assignment, domain: str, side: Side, outcome: str) -> None:
        self._metrics.canary_answers.labels(one.experiment, one.arm, domain, outcome).inc()
        fields = list(side.fields(one.arm))
        self._counts.add(canary_counts(one.experiment, int(time.time() // 60)), fields, _MINUTE_SECONDS)
        self._counts.add(canary_counts(one.experiment, None), fields, KEEP_SECONDS)

    async def run(self, pause_seconds: float) -> None:
        """Until cancelled: look, where there are canaries and the lease is ours."""
        with redis.Redis.from_url(
            self._redis_url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
        ) as client:
            watcher = Watcher(client)
            while True:
                await asyncio.sleep(pause_seconds)
                if self._by_domain:
                    await self._counts.flush()
                    await asyncio.to_thread(self._look, watcher, pause_seconds)

    def _look(self, watcher: Watcher, pause_seconds: float) -> None:
        """Never raises."""
        try:
            if watcher.holds_lease(self._who, max(_LEASE_LOOKS * pause_seconds, 1.0)):
                watcher.look()
        except (redis.RedisError, MdrecError, OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("canaries are not watched now: %s", error)
            self._metrics.background_errors.labels("canary").inc()


def _unseen(work: Work) -> bool:
    """Has the bundle no row of the user, or does it not know a value of the user or the context?"""
    if work.stranger:
        return True
    feeds = work.feeds
    return bool((feeds["user_codes"] == UNKNOWN).any() or (feeds["context_codes"] == UNKNOWN).any())
