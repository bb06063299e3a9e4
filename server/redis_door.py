"""The gateway's two doors to Redis: a client for writes, and a reader of user rows that keeps a request's time budget.

The reader is one pipelined connection: requests write their GETs as they come and each waits for its own reply, only as
long as its budget. A general client would hold a pooled connection per request and cost five times as much (uvloop,
one core: 12 us a GET here, 60 us there); what it needs of the protocol is GET and HGETALL, parsed by hiredis.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any, cast

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

Client = aioredis.Redis

# What a failing Redis raises; asyncio.TimeoutError and OSError come from the socket underneath.
FAILURES = (RedisError, OSError, asyncio.TimeoutError)

_CONNECT_SECONDS = 1.0
_STALL_SECONDS = 1.0  # a connection that owes a reply for so long is given up
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


class _Connection(asyncio.Protocol):
    """Replies come in the order of requests; each settles the oldest waiting future."""

    def __init__(self) -> None:
        self._replies = hiredis.Reader()
        self._owed: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        for waiting, _ in self._owed:
            if not waiting.done():
                waiting.set_exception(RowUnavailable(f"connection lost: {error}"))
        self._owed.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not False:
                waiting, _ = self._owed.popleft()
                if not waiting.done():
                    waiting.set_result(reply)
        except (hiredis.ProtocolError, IndexError):  # not a Redis at the other end: nothing after this can be trusted
            self.abort()

    def send(self, *command: str) -> asyncio.Future[Any]:
        assert self._transport is not None
        waiting: asyncio.Future[Any] = self._loop.create_future()
        self._owed.append((waiting, self._loop.time()))
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub says one argument
        return waiting

    def abort_if_stalled(self) -> None:
        if self._owed and self._loop.time() - self._owed[0][1] > _STALL_SECONDS:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class RowReader:
    """`get`, `hash` and `scored` with a budget. Connects on first use and again whenever the connection is gone."""

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = dict(parse_url(url))
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def get(self, key: str, budget_seconds: float) -> bytes | None:
        """The stored bytes, None when there are none. Raises RowUnavailable."""
        return cast(bytes | None, await self._ask(budget_seconds, "GET", key))

    async def hash(self, key: str, budget_seconds: float) -> dict[str, str]:
        """The fields of a hash of text, none when there is no such key. Raises RowUnavailable."""
        flat = [one.decode() for one in await self._ask(budget_seconds, "HGETALL", key)]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def scored(self, key: str, least: float, budget_seconds: float) -> list[tuple[bytes, float]]:
        """Members of a sorted set whose score is at least that, lowest first; none when there is no such key. Raises
        RowUnavailable."""
        flat = await self._ask(budget_seconds, "ZRANGEBYSCORE", key, repr(least), "+inf", "WITHSCORES")
        return [(one, float(score)) for one, score in zip(flat[::2], flat[1::2], strict=True)]

    async def _ask(self, budget_seconds: float, *command: str) -> Any:
        loop = asyncio.get_running_loop()
        due = loop.time() + budget_seconds
        connection = self._connection
        if connection is None or not connection.open:
            connection = await self._connected(budget_seconds)
        answer = connection.send(*command)
        timer = loop.call_at(due, self._expire, connection, answer, due, _GRACES)
        try:
            reply = await answer
        finally:
            timer.cancel()
        if isinstance(reply, hiredis.ReplyError):
            raise RowUnavailable(str(reply))
        return reply

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    async def _connected(self, budget_seconds: float) -> _Connection:
        """One attempt at a time, shared by all who wait; it outlives the budget of the request that began it."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="redis-connect")
            self._connecting.add_done_callback(_seen)
        attempt = self._connecting
        await asyncio.wait({attempt}, timeout=budget_seconds)
        if not attempt.done() or attempt.cancelled():
            raise RowUnavailable("no connection within the budget")
        error = attempt.exception()
        if error is not None:
            raise RowUnavailable(str(error))
        return attempt.result()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        options = self._options
        async with asyncio.timeout(_CONNECT_SECONDS):
            if "path" in options:
                _, connection = await loop.create_unix_connection(_Connection, options["path"])
            else:
                tls = (
                    ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
                    if options.get("connection_class") is SSLConnection
                    else None
                )
                host, port = options.get("host", "localhost"), options.get("port", 6379)
                _, connection = await loop.create_connection(_Connection, host, port, ssl=tls)
            if "password" in options:
                names = [options["username"]] if "username" in options else []
                _accepted(await connection.send("AUTH", *names, options["password"]))
            if options.get("db"):
                _accepted(await connection.send("SELECT", str(options["db"])))
        self._connection = connection
        return connection

    def _expire(self, connection: _Connection, answer: asyncio.Future[Any], due: float, graces: int) -> None:
        """A timer that fires late means that this process was busy, not that Redis was: let the loop read its sockets
        once more before giving up."""
        if answer.done():
            return
        loop = answer.get_loop()
        if graces and loop.time() - due > _LATE_SECONDS:
            later = loop.time() + _LATE_SECONDS
            loop.call_at(later, self._expire, connection, answer, later, graces - 1)
            return
        answer.set_exception(RowUnavailable("no answer within the budget"))
        connection.abort_if_stalled()


def _seen(attempt: asyncio.Task[_Connection]) -> None:
    """Those who wait read the error; when all have given up, asyncio must not report it as forgotten."""
    if not attempt.cancelled():
        attempt.exception()


def _accepted(reply: Any) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise RowUnavailable(str(reply))
