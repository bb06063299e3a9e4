"""Caps in a gateway: feedback leaves what a user has seen beside the stream, a request in a capped domain reads it with the row.

A domain without a cap pays one look into a set. What cannot be read bars nothing, and the answer says so (`caps` in `degraded`):
an ad too many is better than none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from redis.asyncio.client import Pipeline

from abtest.caps import Cap, counts_of, looks_back_seconds
from abtest.definitions import Definitions
from contracts.events import Feedback
from contracts.keys import seen
from contracts.seen import KEPT, member, outcomes
from server.redis_door import RowReader, RowUnavailable

_log = logging.getLogger("mdrec.server")

RUNG = "caps"


class Caps:
    """domains: those that have one."""

    def __init__(self, rows: RowReader) -> None:
        self._rows = rows
        self._caps: Mapping[str, Cap] = {}
        self._seconds = 0
        self.domains: frozenset[str] = frozenset()

    def follow(self, definitions: Definitions) -> None:
        """New definitions are in force here."""
        self._caps = {name: one for name, one in definitions.caps.items() if one.active}
        self._seconds = looks_back_seconds(self._caps)
        self.domains = frozenset(self._caps)

    async def barred(self, user_id: str, domain: str, budget_seconds: float) -> list[str] | None:
        """Ads of the domain that the user may not be answered; None where what the user has seen could not be read."""
        cap, now_ms = self._caps[domain], time.time() * 1e3
        try:
            since = now_ms - cap.looks_back_hours * 3_600_000
            found = await self._rows.scored(seen(user_id), since, budget_seconds)
            return cap.barred(domain, outcomes(found), now_ms)
        except (RowUnavailable, ValueError) as error:
            _log.warning("what a user has seen is unreadable: %s", error)
            return None

    def keep(self, pipe: Pipeline, event: Feedback) -> None:
        """Add to the writes of an accepted event what caps will ask of it."""
        if counts_of(self._caps, event.domain):
            key = seen(event.user_id)
            pipe.zadd(key, {member(event.type, event.domain, event.ad_id, event.event_id): event.received * 1e3})
            pipe.zremrangebyrank(key, 0, -KEPT - 1)
            pipe.expire(key, self._seconds)
