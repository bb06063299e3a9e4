"""What sticky experiments remember of units: one Redis hash a unit, read beside the user's row, written after the answer.

`sticky:*` hash: "<experiment>__<bucketVersion>" -> arm. The first arm a unit meets stays (HSETNX), whoever writes later. A
memory that cannot be read is None: the hash decides, and the answer says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from abtest.remembered import Kept, Memory, Unit
from contracts.keys import sticky_arms
from server.redis_door import Client, RowReader, RowUnavailable

_log = logging.getLogger("mdrec.server")


class Sticky:
    """life_seconds: how long a unit's arms are remembered after the last new one."""

    def __init__(self, rows: RowReader, client: Client, life_seconds: int) -> None:
        self._rows, self._client, self._life_seconds = rows, client, life_seconds

    async def recall(self, units: Sequence[Unit], budget_seconds: float) -> Memory | None:
        """All units in one round trip; None where that failed."""
        try:
            found = await asyncio.gather(*(self._rows.hash(sticky_arms(*unit), budget_seconds) for unit in units))
        except (RowUnavailable, UnicodeDecodeError) as error:
            _log.warning("what sticky experiments remember is unreadable: %s", error)
            return None
        return dict(zip(units, found, strict=True))

    async def keep(self, kept: Sequence[Kept]) -> None:
        """Raises a redis failure; the next request of the unit asks again."""
        async with self._client.pipeline(transaction=False) as pipe:
            for one in kept:
                key = sticky_arms(*one.unit)
                pipe.hsetnx(key, one.name, one.arm)
                pipe.expire(key, self._life_seconds)
            await pipe.execute()
