"""The gateway's two doors to Redis: a client for writes, and a reader of user rows that keeps a request's time budget.

The reader pipelines: while one batch of GETs is on its way, later requests gather for the next, so a busy gateway makes
few round trips. Each request waits for its own answer only as long as its budget, whatever becomes of the batch.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

Client = aioredis.Redis

# What a failing Redis raises; asyncio.TimeoutError and OSError come from the socket underneath.
FAILURES = (RedisError, OSError, asyncio.TimeoutError)

_LATE_SECONDS = 0.001
_GRACES = 3


class RowUnavailable(Exception):
    """The user row could not be read within its budget; absent is not unavailable."""


def connect(url: str, timeout_ms: float) -> Client:
    """A client that fails within its time-out. One retry, and only on a dropped connection: after Redis restarts, the
    first use of a pooled connection fails although the server is there."""
    seconds = timeout_ms / 1000
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return aioredis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry)


async def get(client: Client, key: str) -> bytes | None:
    """GET of a client that does not decode."""
    return cast(bytes | None, await client.get(key))


@dataclass(slots=True)
class _Wait:
    key: str
    answer: asyncio.Future[bytes | None]


class RowReader:
    """`get` with a budget. `run()` must be running; it owns the connection."""

    def __init__(self, client: Client, max_batch: int = 256) -> None:
        self._client = client
        self._max_batch = max_batch
        self._waiting: list[_Wait] = []
        self._wake = asyncio.Event()

    async def get(self, key: str, budget_seconds: float) -> bytes | None:
        """The stored bytes, None when there are none. Raises RowUnavailable."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        self._waiting.append(_Wait(key, answer))
        self._wake.set()
        timer = loop.call_later(budget_seconds, self._expire, answer, loop.time() + budget_seconds, _GRACES)
        try:
            return await answer
        finally:
            timer.cancel()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            waiting = [one for one in self._waiting if not one.answer.done()]
            batch, self._waiting = waiting[: self._max_batch], waiting[self._max_batch :]
            if not self._waiting:
                self._wake.clear()
            if batch:
                await self._read(batch)

    async def _read(self, batch: list[_Wait]) -> None:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for one in batch:
                    pipe.get(one.key)
                found = await pipe.execute(raise_on_error=False)
        except FAILURES as error:
            found = [error] * len(batch)
        for one, value in zip(batch, found, strict=True):
            if one.answer.done():
                continue
            if isinstance(value, Exception):
                one.answer.set_exception(RowUnavailable(str(value)))
            else:
                one.answer.set_result(value)

    def _expire(self, answer: asyncio.Future[bytes | None], due: float, graces: int) -> None:
        """A timer that fires late means that this process was busy, not that Redis was: let the loop read its sockets
        once more before giving up."""
        if answer.done():
            return
        loop = answer.get_loop()
        if graces and loop.time() - due > _LATE_SECONDS:
            loop.call_later(_LATE_SECONDS, self._expire, answer, loop.time() + _LATE_SECONDS, graces - 1)
        else:
            answer.set_exception(RowUnavailable("no answer within the budget"))
