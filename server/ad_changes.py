"""Ads paused, resumed and re-priced during the day, as this worker knows them: laid over the ad tables in memory. Neither index
nor models change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from contracts import ad_changes as layout
from contracts.ad_changes import AdChange
from contracts.ad_records import Records, ad_field
from contracts.keys import ad_changes
from server.ad_records import RecordStore
from server.bundle import Bundle, DomainModel
from server.metrics import Metrics
from server.redis_door import Client

Applied = tuple[DomainModel, Records[AdChange], DomainModel]  # what the changes were laid over, which changes, and the outcome


class AdChanges:
    """Without Redis the last known changes stay in force."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self.records = RecordStore(client, metrics, ad_changes, layout.unpack, "changed ads")
        self._known: dict[str, Records[AdChange]] = {}
        self._applied: WeakKeyDictionary[Bundle, dict[str, Applied]] = WeakKeyDictionary()

    def applied(self, bundle: Bundle, domain: DomainModel) -> DomainModel:
        """The domain with its changed ads: a copy of two columns, made once for each version of the changes and each bundle."""
        known = self._known.get(domain.name)
        if known is None:
            return domain
        made = self._applied.setdefault(bundle, {})
        laid = made.get(domain.name)
        if laid is None or laid[0] is not domain or laid[1] is not known:
            laid = made[domain.name] = (domain, known, _over(domain, known.ads))
        return laid[2]

    async def refresh(self, bundles: Collection[Bundle]) -> None:
        """Never raises."""
        for name in {name for bundle in bundles for name in bundle.domains}:
            found = await self.records.look(name)
            if found is not None:
                self._known[name] = found

    async def write(
        self, domain: str, wanted: dict[str, dict[str, Any]], expected_version: int | None
    ) -> tuple[int, dict[str, tuple[AdChange | None, AdChange]]]:
        """wanted: ad_id -> fields of AdChange to set. Returns the new version, and before and after of each ad; a record that
        cannot be read is None before, and is replaced. Raises VersionMoved when expected_version is not what is stored."""
        done: dict[str, tuple[AdChange | None, AdChange]] = {}

        def change(stored: Any, size: int) -> dict[bytes, str | None]:
            values: dict[bytes, str | None] = {}
            for ad_id, fields in wanted.items():
                before = _readable(stored[ad_field(ad_id)])
                after = replace(before or AdChange(), **fields)
                done[ad_id] = (before, after)
                values[ad_field(ad_id)] = after.pack() if after else None
            return values

        version = await self.records.write(domain, [ad_field(ad_id) for ad_id in wanted], change, expected_version)
        return version, done


def _readable(data: bytes | None) -> AdChange | None:
    if data is None:
        return AdChange()
    try:
        return AdChange.unpack(data)
    except (ValueError, TypeError, RecursionError):  # named by every look at the records; here it is replaced
        return None


def _over(domain: DomainModel, changes: Any) -> DomainModel:
    """Changes of ads that this bundle does not have wait for one that does."""
    if not changes:
        return domain
    ads = domain.ads
    bid, active = np.array(ads.bid), np.array(ads.active)
    for row, change in zip(ads.ids.find(list(changes)), changes.values(), strict=True):
        if row < 0:
            continue
        if change.bid is not None:
            bid[row] = change.bid
        if change.paused is not None:
            active[row] = not change.paused
    return replace(domain, ads=replace(ads, bid=bid, active=active))
