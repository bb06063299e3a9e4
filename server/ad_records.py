"""One kind of record that operators keep about ads: read from Redis every few seconds, written as a compare-and-set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from contracts import ad_records as layout
from contracts.ad_records import Records, Unreadable
from contracts.errors import WorkFailed
from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")

T = TypeVar("T")
# Of the records as stored (None: there is none) and the number of all records of the domain, what to store (None: nothing).
Change = Callable[[Mapping[bytes, bytes | None], int], Mapping[bytes, str | None]]

_ATTEMPTS = 10

# KEYS[1] the hash; ARGV expected version, then pairs of field and value, '' to delete. Returns the new version, false when
# another one is there than expected. A version that is no number gives way to the clock, which no count has reached.
_WRITE = """
local found = redis.call('HGET', KEYS[1], 'version') or '0'
if found ~= ARGV[1] then return false end
for at = 2, #ARGV, 2 do
  if ARGV[at + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[at]) else redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
if not string.match(found, '^%d+$') or #found > 15 then redis.call('HSET', KEYS[1], 'version', redis.call('TIME')[1]) end
return redis.call('HINCRBY', KEYS[1], 'version', 1)
"""


class VersionMoved(WorkFailed):
    """Somebody else changed the domain's records first."""


class RecordStore(Generic[T]):
    """what: the records' name in messages."""

    def __init__(
        self,
        client: Client,
        metrics: Metrics,
        key: Callable[[str], str],
        unpack: Callable[[Mapping[bytes, bytes]], Records[T]],
        what: str,
    ) -> None:
        self._client, self._metrics = client, metrics
        self._key, self._unpack, self._what = key, unpack, what
        self._versions: dict[str, bytes | None] = {}
        self._named: dict[str, frozenset[Unreadable]] = {}

    async def read(self, domain: str) -> Records[T]:
        return (await self._read(domain))[0]

    async def look(self, domain: str) -> Records[T] | None:
        """What is stored, None where it is what the last look found. Never raises: a Redis that cannot be read leaves everything
        as it is, and is counted; so is a record that cannot be read, once."""
        try:
            version = await cast(Any, self._client.hget(self._key(domain), layout.VERSION.decode()))
            if version == self._versions.get(domain):
                return None
            found, self._versions[domain] = await self._read(domain)
        except FAILURES as error:
            _log.warning("%s of domain %r cannot be read, what is known stays in force: %s", self._what, domain, error)
            self._metrics.background_errors.labels("ads").inc()
            return None
        self._name(domain, found)
        _log.info("%d %s in domain %r, version %d", len(found.ads), self._what, domain, found.version)
        return found

    async def write(self, domain: str, names: Sequence[bytes], change: Change, expected_version: int | None) -> int:
        """Returns the new version. Raises VersionMoved when expected_version is not what is stored, and what `change` raises."""
        key = self._key(domain)
        for _ in range(_ATTEMPTS):
            stored, *found = await cast(Any, self._client.hmget(key, [layout.VERSION, *names]))
            size = await cast(Any, self._client.hlen(key)) - (stored is not None)
            version = layout.version_of(stored)
            if expected_version is not None and version != expected_version:
                raise VersionMoved(f"{self._what} of domain {domain!r} are at version {version}, not {expected_version}")
            values = change(dict(zip(names, found, strict=True)), size)
            pairs = [part for name, value in values.items() for part in (name, value or "")]
            written = await cast(Any, self._client.eval(_WRITE, 1, key, "0" if stored is None else stored, *pairs))
            if written is not None:
                return int(written)
        raise VersionMoved(f"{self._what} of domain {domain!r} change too fast", "send it again")

    async def _read(self, domain: str) -> tuple[Records[T], bytes | None]:
        """The records and their version as stored. Thousands are unpacked in a thread, away from the loop that answers."""
        fields = cast(dict[bytes, bytes], await cast(Any, self._client.hgetall(self._key(domain))))
        return await asyncio.to_thread(self._unpack, fields), fields.get(layout.VERSION)

    def _name(self, domain: str, found: Records[T]) -> None:
        unreadable = frozenset(found.unreadable)
        for one in unreadable - self._named.get(domain, frozenset()):
            _log.error("record %r under %r is unreadable and is skipped: %s", one.key, self._key(domain), one.why)
            self._metrics.background_errors.labels("ads").inc()
        self._named[domain] = unreadable
