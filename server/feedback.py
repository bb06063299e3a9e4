"""Outcomes into the `events` stream: 202 only after Redis has them, and a repeated event_id counts once.

Each event claims its mark (`SET evt:{id} pending NX`), is added to the stream, and its mark becomes `done`. Marks and
stream are different keys, so no script spans them on a cluster. Whoever dies between leaves a pending mark that expires
in seconds: the client, which got no 202, sends again. A mark found pending belongs to a request in flight: it is waited
for, then taken over. A take-over after a lost reply can add an event twice; readers of the stream count by event_id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from contracts.events import Feedback, to_stream
from contracts.keys import EVENTS, event_mark
from server.api import FeedbackEvent, Rejection
from server.caps import Caps
from server.metrics import Metrics
from server.redis_door import Client

_PENDING, _DONE = b"p", b"d"
_PENDING_SECONDS = 5
_LOOKS, _LOOK_SECONDS = 10, 0.02
_FUTURE_SECONDS = 86400.0
_UNKNOWN = "unknown"


@dataclass(slots=True)
class Receipt:
    """What became of one request's events. accepted: those now in the stream."""

    accepted: list[Feedback] = field(default_factory=list)
    duplicates: int = 0
    rejected: list[Rejection] = field(default_factory=list)


class FeedbackLog:
    def __init__(self, client: Client, metrics: Metrics, mark_seconds: int, caps: Caps) -> None:
        self._client, self._metrics, self._mark_seconds, self._caps = client, metrics, mark_seconds, caps

    async def add(self, events: list[Any], domains: Collection[str]) -> Receipt:
        """Raises a redis failure when Redis does not have them; then nothing may be answered but 503."""
        receipt = Receipt()
        fresh: dict[str, Feedback] = {}
        for index, raw in enumerate(events):
            event = self._read(raw, index, domains, receipt)
            if event is None:
                continue
            if event.event_id in fresh:
                self._count(event, "duplicate", receipt)
            else:
                fresh[event.event_id] = event
        if fresh:
            await self._store(fresh, receipt)
        return receipt

    async def _store(self, fresh: dict[str, Feedback], receipt: Receipt) -> None:
        claims = await self._claim(list(fresh))
        for event_id, mark in claims.items():
            if mark == _PENDING and await self._finished_elsewhere(event_id):
                claims[event_id] = _DONE
        ours = [event for event_id, event in fresh.items() if claims[event_id] != _DONE]
        if ours:
            async with self._client.pipeline(transaction=False) as pipe:
                for event in ours:
                    pipe.xadd(EVENTS, to_stream(event))  # type: ignore[arg-type]
                    self._caps.keep(pipe, event)  # before the mark: who dies in between is sent the event again
                    pipe.set(event_mark(event.event_id), _DONE, ex=self._mark_seconds)
                await pipe.execute()
        for event in fresh.values():
            self._count(event, "duplicate" if claims[event.event_id] == _DONE else "accepted", receipt)

    async def _claim(self, event_ids: list[str]) -> dict[str, bytes | None]:
        """The mark that was there before: none means it is now ours."""
        async with self._client.pipeline(transaction=False) as pipe:
            for event_id in event_ids:
                pipe.set(event_mark(event_id), _PENDING, nx=True, get=True, ex=_PENDING_SECONDS)
            return dict(zip(event_ids, await pipe.execute(), strict=True))

    async def _finished_elsewhere(self, event_id: str) -> bool:
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_SECONDS)
            mark = await self._client.get(event_mark(event_id))
            if mark != _PENDING:
                return bool(mark == _DONE)
        return False

    def _read(self, raw: Any, index: int, domains: Collection[str], receipt: Receipt) -> Feedback | None:
        now = time.time()
        try:
            event = FeedbackEvent.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "event"
            self._reject(index, f"{where}: {first['msg']}", receipt)
            return None
        if event.domain not in domains:
            known = ", ".join(sorted(domains))
            self._reject(index, f"domain: {event.domain!r} is unknown; known: {known}", receipt, event)
            return None
        if event.time is not None and event.time > now + _FUTURE_SECONDS:
            self._reject(index, f"time: {event.time} lies in the future; it is in seconds since 1970", receipt, event)
            return None
        values = event.model_dump()
        values["time"] = now if event.time is None else event.time
        return Feedback(**values, received=now)

    def _reject(self, index: int, reason: str, receipt: Receipt, event: FeedbackEvent | None = None) -> None:
        receipt.rejected.append(Rejection(index, reason))
        self._metrics.events.labels(event.type if event else _UNKNOWN, _UNKNOWN, "rejected").inc()

    def _count(self, event: Feedback, outcome: str, receipt: Receipt) -> None:
        if outcome == "accepted":
            receipt.accepted.append(event)
        else:
            receipt.duplicates += 1
        self._metrics.events.labels(event.type, event.domain, outcome).inc()
