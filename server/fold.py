"""Live fold-in (methods section 2): an impression moves its user's average in its domain, at once and exactly once each.

The row is one packed value, so a fold is a compare-and-set: read, fold, write if it is still what was read. Folds of
one user from many workers lose nothing; they retry. Within a bundle only: rows live under the bundle's namespace.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any

import msgspec
import numpy as np

from contracts.errors import WorkFailed
from contracts.events import Feedback
from contracts.keys import request_record, user_row, user_row_meta
from contracts.user_row import UserRow
from server import features
from server.ads import AdsToday
from server.bundle import Bundle, DomainModel
from server.exposures import ShownFacts
from server.inference import F32
from server.metrics import Metrics
from server.redis_door import FAILURES, Client, get
from server.stages import Rows
from server.swap import Live

_log = logging.getLogger("mdrec.server")

# KEYS[1] the row; ARGV old value ('' for absent), new value, milliseconds to live for a new row (0: for ever).
_SWAP = """
local found = redis.call('GET', KEYS[1])
if (found or '') ~= ARGV[1] then return 0 end
if found then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
elseif tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""
_ATTEMPTS = 50
_JITTER_SECONDS = 0.002
_DAY_SECONDS = 86400


async def fold(
    redis: Client, key: str, domain: int, vector: F32, day: int, stranger: UserRow | None = None, ttl_ms: int = 0
) -> UserRow | None:
    """Fold one impression's encoding `vector` (K,) into the row under `key`; the row as written.

    A missing row is made from `stranger`, to live `ttl_ms`; without one it stays missing and None comes back. Raises
    WorkFailed when other writers win every one of a bounded number of attempts, ValueError when the stored bytes are
    no row of this width.
    """
    for _ in range(_ATTEMPTS):
        data = await get(redis, key)
        row = UserRow.unpack(data) if data is not None else stranger
        if row is None:
            return None
        if row.vectors.shape[1:] != vector.shape or domain >= len(row.vectors):
            raise ValueError(f"row under {key!r} holds vectors {row.vectors.shape}, not of width {vector.shape}")
        after = row.folded(domain, vector, day)
        if await redis.eval(_SWAP, 1, key, data or b"", after.pack(), ttl_ms):
            return after
        await asyncio.sleep(random.uniform(0, _JITTER_SECONDS))
    raise WorkFailed(f"row under {key!r} changed under each of {_ATTEMPTS} attempts")


class Folder:
    """Folds accepted impressions after their 202. Nothing here can fail a feedback request; failures are counted."""

    def __init__(self, client: Client, ads: AdsToday, metrics: Metrics) -> None:
        self._client, self._ads, self._metrics = client, ads, metrics

    async def add(self, events: list[Feedback], live: Live) -> None:
        """Fold the impressions among `events` whose request was answered by a bundle that is still in service."""
        by_id = {bundle.bundle_id: bundle for bundle in live.all() if bundle.user_domain_encoder is not None}
        for event in events:
            if event.type != "impression" or not by_id:
                continue
            try:
                await self._one(event, by_id)
            except (*FAILURES, WorkFailed, ValueError, RuntimeError) as error:  # RuntimeError: ONNX Runtime's
                _log.warning("fold-in of event %s failed: %s", event.event_id, error)
                self._metrics.background_errors.labels("fold").inc()

    async def _one(self, event: Feedback, bundles: dict[str, Bundle]) -> None:
        data = await get(self._client, request_record(event.request_id))
        if data is None:
            return
        facts = msgspec.json.decode(data, type=ShownFacts)
        if facts.user_id != event.user_id:
            return
        for bundle_id in (facts.bundle_id, *(facts.also or ())):
            await self._into(bundles.get(bundle_id), facts, event)

    async def _into(self, bundle: Bundle | None, facts: ShownFacts, event: Feedback) -> None:
        """One bundle's row of the user."""
        if bundle is None or facts.domain not in bundle.domains:
            return
        domain = self._ads.applied(bundle, bundle.domains[facts.domain])
        ad_row = domain.ads.ids.find([event.ad_id])
        if ad_row[0] < 0:
            return
        namespace = bundle.manifest.namespace
        key = user_row(namespace, event.user_id)
        stored = await get(self._client, key)
        row = features.read_row(bundle, stored) if stored is not None else features.stranger(bundle, event.user_id)
        ttl_ms = max(await self._client.pttl(user_row_meta(namespace)), 0) if stored is None else 0
        vector = _encode(bundle, row, domain, facts, ad_row)
        await fold(self._client, key, domain.number, vector, int(time.time()) // _DAY_SECONDS, row, ttl_ms)


def _encode(bundle: Bundle, row: UserRow, domain: DomainModel, facts: ShownFacts, ad_row: Rows) -> F32:
    """u_d(x) of one impression: (K,)."""
    assert bundle.user_domain_encoder is not None
    ads = domain.ads
    user_codes, user_dense = row.block(domain.number)
    context = features.encode_context(bundle, facts.context)
    feeds: dict[str, np.ndarray[Any, Any]] = {
        "user_codes": user_codes,
        "user_dense": user_dense,
        "context_codes": context.codes,
        "context_dense": context.dense,
        "ad_codes": ads.codes[ad_row],
        "ad_dense": ads.dense[ad_row],
        "domain": np.array([domain.number], dtype=np.int64),
    }
    vector: F32 = bundle.user_domain_encoder.run(feeds)[0]
    return vector
