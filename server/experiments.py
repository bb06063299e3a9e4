"""The experiment definitions as this worker knows them: kept in memory, renewed as soon as somebody writes.

Every write is announced on the channel `exp:changed`. A message can be lost and a connection can die without a word, so the
worker also looks every few seconds by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from abtest.assign import Assigner, Routing
from abtest.definitions import Definitions
from abtest.evaluate import FeatureResult, Scope, evaluate
from abtest.experiments import snapshot
from abtest.remembered import Memory, Unit
from contracts.errors import BadInput
from contracts.keys import EXPERIMENTS, EXPERIMENTS_CHANGED
from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")


class Experiments:
    """Without Redis the last known definitions stay in force: a unit never changes arms because a server is down."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self._client, self._metrics = client, metrics
        self._assigner = Assigner(Definitions())
        self.version = 0
        self.listeners: list[Callable[[Definitions], None]] = []

    @property
    def definitions(self) -> Definitions:
        return self._assigner.definitions

    def route(self, user_id: str, domain: str, context: Mapping[str, Any], memory: Memory | None = None) -> Routing:
        return self._assigner.route(user_id, domain, context, memory)

    def remembers(self, attributes: Mapping[str, Any]) -> list[Unit]:
        """The units whose arms sticky experiments remember."""
        return self._assigner.remembers(attributes)

    def evaluate(self, feature: str, attributes: Mapping[str, Any], memory: Memory | None = None) -> FeatureResult:
        """One feature, whether it routes or is a plain flag."""
        return evaluate(Scope(self.definitions, attributes, memory=memory), feature)

    async def run(self, poll_seconds: float) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow(poll_seconds)
            except FAILURES as error:
                _log.warning("changes of experiments are not announced here, looking every %g s: %s", poll_seconds, error)
                self._metrics.background_errors.labels("experiments").inc()
            await asyncio.sleep(poll_seconds)
            await self.refresh()

    async def _follow(self, poll_seconds: float) -> None:
        """Look when a change is announced, and every few seconds in any case. Raises a redis failure."""
        async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(EXPERIMENTS_CHANGED)
            while True:
                await self.refresh()
                await channel.get_message(timeout=poll_seconds)

    async def refresh(self) -> None:
        """Never raises: definitions that cannot be read or parsed leave the known ones in force, and are counted."""
        try:
            version = await self._client.hget(EXPERIMENTS, "version")
            if int(version or 0) == self.version:
                return
            found = snapshot(cast(dict[bytes, bytes], await self._client.hgetall(EXPERIMENTS)))
        except (*FAILURES, BadInput, KeyError, ValueError) as error:
            _log.warning("experiment definitions are unreadable, version %d stays in force: %s", self.version, error)
            self._metrics.background_errors.labels("experiments").inc()
            return
        self._assigner, self.version = Assigner(found.definitions), found.version
        for listener in self.listeners:
            listener(found.definitions)
        _log.info("experiment definitions are now version %d", found.version)
