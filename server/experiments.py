"""The experiment definitions as this worker knows them: read from Redis every few seconds, evaluated in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast

from abtest.assign import Assigner, Routing
from abtest.definitions import Definitions
from abtest.experiments import snapshot
from contracts.errors import BadInput
from contracts.keys import EXPERIMENTS
from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")


class Experiments:
    """Without Redis the last known definitions stay in force: a unit never changes arms because a server is down."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self._client, self._metrics = client, metrics
        self._assigner = Assigner(Definitions())
        self.version = 0

    def route(self, user_id: str, domain: str, context: Mapping[str, Any]) -> Routing:
        return self._assigner.route(user_id, domain, context)

    async def run(self, poll_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.refresh()

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
        _log.info("experiment definitions are now version %d", found.version)
