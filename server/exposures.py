"""After the answer: what was shown goes to the `events` stream, and what later feedback needs goes beside it.

A bounded queue in memory and one writer. Redis gone means retry; a full queue drops the newest and counts it; a stopping
worker writes what it holds. A batch whose reply was lost is written again: readers of the stream count by request_id.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from contracts.events import STREAM_FIELD
from contracts.keys import EVENTS, request_record
from server.api import DecisionRecord, InterleavedAnswer, RecommendAnswer
from server.metrics import Metrics
from server.redis_door import FAILURES, Client

_log = logging.getLogger("mdrec.server")

_BATCH = 256
# One write for several answers: a write of its own takes .36 ms of processor time an answer, one for four .15. Feedback on an
# answer needs what is written here, and no person is as fast.
_GATHER_SECONDS = 0.025
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.05, 2.0


@dataclass(slots=True)
class Drawn:
    """What only a drawn slate leaves: (k,) propensities, and the ads that the caller would not have."""

    propensities: list[float]
    excluded: Sequence[str]


@dataclass(slots=True)
class Shown:
    """One answer on its way to the stream. time: seconds since 1970; stranger: to a user without a row; facts: what live fold-in
    will need, with their life in seconds; record: a sampled decision record, with its life; drawn: of an arm that explores."""

    answer: RecommendAnswer
    time: float
    user_id: str
    recipe: str
    context: Mapping[str, Any]
    stranger: bool = False
    facts_seconds: int | None = None
    record: tuple[DecisionRecord, int] | None = None
    drawn: Drawn | None = None


class ShownFacts(msgspec.Struct):
    """What an impression's fold-in needs of the request it belongs to. It shares the decision record's key and gives
    way to one; `kind` tells them apart."""

    bundle_id: str
    user_id: str
    domain: str
    context: dict[str, Any]
    kind: str = "facts"
    also: list[str] | msgspec.UnsetType = msgspec.UNSET  # other bundles that share the answer's slate


class ExposureLog:
    """written: is told of each answer that is in the stream."""

    def __init__(self, client: Client, metrics: Metrics, capacity: int, written: Callable[[Shown], None]) -> None:
        self._client, self._metrics, self._capacity, self._written = client, metrics, capacity, written
        self._queue: deque[Shown] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, shown: Shown) -> None:
        """Never waits and never fails."""
        if len(self._queue) >= self._capacity:
            self._metrics.events.labels("exposure", shown.answer.domain, "dropped").inc()
            return
        self._queue.append(shown)
        self._empty.clear()
        self._wake.set()

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Until cancelled."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            batch = [self._queue[at] for at in range(min(_BATCH, len(self._queue)))]
            try:
                await self._write(batch)
            except FAILURES as error:
                _log.warning("%d exposures wait for Redis: %s", len(self._queue), error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_RETRY_SECONDS)
                continue
            pause = _FIRST_RETRY_SECONDS
            for shown in batch:
                self._queue.popleft()
                self._metrics.events.labels("exposure", shown.answer.domain, "accepted").inc()
                self._written(shown)
            if not self._queue:
                self._wake.clear()
                self._empty.set()

    async def flush(self, seconds: float) -> None:
        """Wait until everything is written, at most so long; what is left then is dropped and counted."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            _log.error("%d exposures were not written before shutdown", len(self._queue))
            for shown in self._queue:
                self._metrics.events.labels("exposure", shown.answer.domain, "dropped").inc()

    async def _write(self, batch: list[Shown]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for shown in batch:
                pipe.xadd(EVENTS, {STREAM_FIELD: _event(shown)})
                key = request_record(shown.answer.request_id)
                if shown.record is not None:
                    record, seconds = shown.record
                    pipe.set(key, msgspec.json.encode(record), ex=seconds)
                elif shown.facts_seconds is not None:
                    facts = ShownFacts(shown.answer.bundle_id, shown.user_id, shown.answer.domain, dict(shown.context))
                    if isinstance(shown.answer, InterleavedAnswer):
                        facts.also = shown.answer.interleaved.bundle_ids[1:]
                    pipe.set(key, msgspec.json.encode(facts), ex=shown.facts_seconds, nx=True)
            await pipe.execute()


def _event(shown: Shown) -> bytes:
    """The JSON of a contracts.events.Exposure. What the pipeline made needs no validation: building the model for it took ten
    times as long as this."""
    answer, drawn = shown.answer, shown.drawn
    ads: list[dict[str, Any]] = [
        {"ad_id": one.ad_id, "position": one.position, "p_click": one.p_click, "rank_score": one.rank_score, "bid": one.bid}
        for one in answer.ads
    ]
    event = {
        "kind": "exposure",
        "request_id": answer.request_id,
        "time": shown.time,
        "user_id": shown.user_id,
        "domain": answer.domain,
        "bundle_id": answer.bundle_id,
        "recipe": shown.recipe,
        "arms": answer.arms,
        "context": shown.context,
        "ads": ads,
        "degraded": answer.degraded,
    }
    if drawn is not None:
        for ad, propensity in zip(ads, drawn.propensities, strict=True):
            ad["propensity"] = propensity
        event["excluded"] = drawn.excluded
    if isinstance(answer, InterleavedAnswer):
        event["interleaved"] = answer.interleaved
    return msgspec.json.encode(event)
