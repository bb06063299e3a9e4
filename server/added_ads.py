"""Ads added during the day, as this worker knows them: rows after the bundle's own in ids, features and index alike. The bundle's
tower places them, nothing is rebuilt.

An added ad that a bundle has in its own table is left to the bundle. Views are made aside and are immutable: a request that holds
one sees ids, features and index of one moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from contracts import added_ads as layout
from contracts.ad_records import Records
from contracts.added_ads import AddedAd
from contracts.errors import BadInput
from contracts.ids import IdTable
from contracts.keys import added_ads
from contracts.schema import Encoded, FeatureSchema
from indexer.grown import GrownIndex
from server.ad_records import RecordStore
from server.bundle import I32, Bundle, DomainModel
from server.metrics import Metrics
from server.redis_door import Client
from server.stacked import Stacked, StackedIds

_log = logging.getLogger("mdrec.server")

Ads = Mapping[str, AddedAd]
View = tuple[Records[AddedAd], DomainModel]


class AddedAds:
    """Without Redis the ads last known are served."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self.records = RecordStore(client, metrics, added_ads, layout.unpack, "added ads")
        self._metrics = metrics
        self._known: dict[str, Records[AddedAd]] = {}
        self._views: WeakKeyDictionary[Bundle, dict[str, View]] = WeakKeyDictionary()

    def grown(self, bundle: Bundle, domain: DomainModel) -> DomainModel:
        """The domain with the added ads after its own; the domain itself where there are none."""
        known = self._known.get(domain.name)
        if known is None:
            return domain
        view = self._view(bundle, domain.name, known)
        if view is None:  # of a bundle that is being loaded: in its thread
            view = known, self._make(bundle, domain, known)
            self._views.setdefault(bundle, {})[domain.name] = view
        return view[1]

    async def refresh(self, bundles: Collection[Bundle]) -> None:
        """Never raises. Views are made in a thread, away from the loop that answers."""
        for name in {name for bundle in bundles for name in bundle.domains}:
            known = await self.records.look(name) or self._known.get(name)
            if known is None:
                continue
            late = [one for one in bundles if name in one.domains and self._view(one, name, known) is None]
            made = [(one, await asyncio.to_thread(self._make, one, one.domains[name], known)) for one in late]
            for bundle, domain in made:  # and from here on without a pause
                self._views.setdefault(bundle, {})[name] = known, domain
            self._known[name] = known

    def _view(self, bundle: Bundle, name: str, known: Records[AddedAd]) -> View | None:
        view = self._views.get(bundle, {}).get(name)
        return view if view is not None and view[0] is known else None

    def _make(self, bundle: Bundle, domain: DomainModel, known: Records[AddedAd]) -> DomainModel:
        """Whatever a tower makes of an ad, the bundle's own are served."""
        try:
            try:
                return grow(bundle.schema, domain, known.ads)
            except (BadInput, OverflowError):
                return grow(bundle.schema, domain, self._encodable(bundle.schema, known.ads))
        except Exception:
            _log.exception("added ads of domain %r cannot be served from %s", domain.name, bundle.bundle_id)
            self._metrics.background_errors.labels("ads").inc()
            return domain

    def _encodable(self, schema: FeatureSchema, ads: Ads) -> Ads:
        """All but those of which a bundle reads a feature as another kind than the bundles that they were added to did."""
        kept = {}
        for ad_id, ad in ads.items():
            error = misfit(schema, {ad_id: ad})
            if error is None:
                kept[ad_id] = ad
            else:
                _log.error("added ad %r is skipped: %s", ad_id, error)
                self._metrics.background_errors.labels("ads").inc()
        return kept


def grow(schema: FeatureSchema, domain: DomainModel, added: Ads) -> DomainModel:
    """`domain` with those of the added ads that it lacks, in the order of their ids. Raises BadInput for a value or an embedding
    that cannot be used."""
    ads = domain.ads
    own = ads.ids.find(list(added))
    new = {ad_id: added[ad_id] for ad_id, row in sorted(zip(added, own, strict=True)) if row < 0}
    if not new:
        return domain
    assert isinstance(ads.ids, IdTable) and isinstance(ads.codes, np.ndarray) and isinstance(ads.dense, np.ndarray), "grown twice"
    ids = StackedIds(ads.ids, IdTable(new))
    ids.find([""])  # builds the reverse table here, not in a request
    encoded = encode_beside(schema, ads.codes, new)
    vectors_ME = domain.ad_tower.run({"ad_codes": encoded.codes, "ad_dense": encoded.dense})
    table = replace(
        ads,
        ids=ids,
        codes=Stacked(ads.codes, encoded.codes),
        dense=Stacked(ads.dense, encoded.dense),
        bid=np.concatenate([ads.bid, np.array([one.bid for one in new.values()], dtype=np.float32)]),
        active=np.concatenate([ads.active, np.ones(len(new), dtype=np.bool_)]),
    )
    return replace(domain, index=GrownIndex(domain.index, vectors_ME), ads=table)


def encode_beside(schema: FeatureSchema, codes_AI: I32, added: Ads) -> Encoded:
    """The ad block of added ads; the statistics of their categories (of the brand, say) as ads of the same category have them
    in the domain's table, codes_AI (A, Ia)."""
    encoded = layout.encode(schema, added)
    for owner, fields in layout.counted(schema).items():
        values, rows = np.unique(codes_AI[:, owner.start], return_index=True)
        mine = encoded.codes[:, owner.start]
        at = np.minimum(np.searchsorted(values, mine), len(values) - 1)
        known = values[at] == mine
        for one in fields:
            encoded.codes[known, one.start] = codes_AI[rows[at[known]], one.start]
    return encoded


def misfit(schema: FeatureSchema, ads: Ads) -> BadInput | OverflowError | None:
    """Why these ads cannot be encoded; None when they can."""
    try:
        layout.encode(schema, ads)
    except (BadInput, OverflowError) as error:
        return error
    return None
