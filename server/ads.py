"""Ads of a bundle as operators left them today: some added, then some paused, resumed and re-priced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from server.ad_changes import AdChanges
from server.added_ads import AddedAds
from server.bundle import Bundle, DomainModel
from server.metrics import Metrics
from server.redis_door import Client


class AdsToday:
    """What a request pins with its bundle: one immutable view of a domain."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self.added, self.changes = AddedAds(client, metrics), AdChanges(client, metrics)
        self._busy = asyncio.Lock()  # of two looks at once the older must not win

    def applied(self, bundle: Bundle, domain: DomainModel) -> DomainModel:
        """domain: the bundle's own, which is also what comes back where nothing was added or changed."""
        return self.changes.applied(bundle, self.added.grown(bundle, domain))

    async def refresh(self, bundles: Collection[Bundle]) -> None:
        """Never raises: what cannot be read leaves what is known in force, and is counted."""
        async with self._busy:
            await self.added.refresh(bundles)
            await self.changes.refresh(bundles)

    async def run(self, live: Callable[[], Collection[Bundle]], poll_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.refresh(live())
