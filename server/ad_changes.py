"""Ads paused, resumed and re-priced during the day, as this worker knows them: read from Redis every few seconds, laid over the
bundle's ad tables in memory. Neither index nor models change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, cast

import numpy as np

from contracts import ad_changes as layout
from contracts.ad_changes import AdChange
from contracts.errors import WorkFailed
from contracts.keys import ad_changes
from server.bundle import Bundle, DomainModel
from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")

_ATTEMPTS = 10

# KEYS[1] the hash; ARGV expected version, then pairs of field and value, '' to delete. Returns the new version, false when
# another one is there than expected.
_WRITE = """
local found = redis.call('HGET', KEYS[1], 'version') or '0'
if found ~= ARGV[1] then return false end
for at = 2, #ARGV, 2 do
  if ARGV[at + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[at]) else redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
return redis.call('HINCRBY', KEYS[1], 'version', 1)
"""


class VersionMoved(WorkFailed):
    """Somebody else changed the domain's ads first."""


class AdChanges:
    """Without Redis the last known changes stay in force."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self._client, self._metrics = client, metrics
        self._known: dict[str, layout.AdChanges] = {}
        self._busy = asyncio.Lock()  # of two looks at once the older must not win
        self._applied: dict[tuple[str, str], tuple[DomainModel, int, DomainModel]] = {}

    def applied(self, bundle: Bundle, domain: DomainModel) -> DomainModel:
        """The domain with its changed ads: a copy of two columns, made once for each version of the changes and each bundle."""
        known = self._known.get(domain.name)
        if known is None:
            return domain
        key = (bundle.bundle_id, domain.name)
        source, version, laid = self._applied.get(key, (None, 0, domain))
        if source is not domain or version != known.version:
            laid = _over(domain, known)
            self._applied[key] = (domain, known.version, laid)
        return laid

    async def run(self, live: Callable[[], Collection[Bundle]], poll_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.refresh(live())

    async def refresh(self, bundles: Collection[Bundle]) -> None:
        """Never raises: what cannot be read leaves the known changes in force, and is counted."""
        async with self._busy:
            for name in {name for bundle in bundles for name in bundle.domains}:
                await self._look(name)
        held = {(bundle.bundle_id, name) for bundle in bundles for name in bundle.domains}
        self._applied = {key: value for key, value in self._applied.items() if key in held}

    async def read(self, domain: str) -> layout.AdChanges:
        return layout.unpack(cast(dict[bytes, bytes], await self._client.hgetall(ad_changes(domain))))

    async def write(
        self, domain: str, wanted: dict[str, dict[str, Any]], expected_version: int | None
    ) -> tuple[int, dict[str, tuple[AdChange, AdChange]]]:
        """wanted: ad_id -> fields of AdChange to set. Returns the new version, and before and after of each ad. Raises
        VersionMoved when expected_version is not what is stored."""
        key = ad_changes(domain)
        names = [layout.ad_field(ad_id) for ad_id in wanted]
        for _ in range(_ATTEMPTS):
            stored, *found = await cast(Any, self._client.hmget(key, [layout.VERSION, *names]))
            version = int(stored or 0)
            if expected_version is not None and version != expected_version:
                raise VersionMoved(f"ads of domain {domain!r} are at version {version}, not {expected_version}")
            changes = {}
            for (ad_id, fields), data in zip(wanted.items(), found, strict=True):
                before = AdChange.unpack(data)
                changes[ad_id] = (before, replace(before, **fields))
            values = [after.pack() if after else "" for _, after in changes.values()]
            pairs = [part for pair in zip(names, values, strict=True) for part in pair]
            written = await cast(Any, self._client.eval(_WRITE, 1, key, str(version), *pairs))
            if written is not None:
                return int(written), changes
        raise VersionMoved(f"ads of domain {domain!r} change too fast", "send it again")

    async def _look(self, domain: str) -> None:
        known = self._known.get(domain, layout.AdChanges())
        try:
            version = await cast(Any, self._client.hget(ad_changes(domain), layout.VERSION))
            if int(version or 0) == known.version:
                return
            self._known[domain] = found = await self.read(domain)
        except (*FAILURES, TypeError, ValueError) as error:
            _log.warning("changed ads of domain %r are unreadable, the known changes stay in force: %s", domain, error)
            self._metrics.background_errors.labels("ads").inc()
            return
        _log.info("%d ads of domain %r are changed, version %d", len(found.ads), domain, found.version)


def _over(domain: DomainModel, changes: layout.AdChanges) -> DomainModel:
    """Changes of ads that this bundle does not have wait for one that does."""
    ads = domain.ads
    bid, active = np.array(ads.bid), np.array(ads.active)
    for row, change in zip(ads.ids.find(list(changes.ads)), changes.ads.values(), strict=True):
        if row < 0:
            continue
        if change.bid is not None:
            bid[row] = change.bid
        if change.paused is not None:
            active[row] = not change.paused
    return replace(domain, ads=replace(ads, bid=bid, active=active))
