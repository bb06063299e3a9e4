"""The row reader: each request its own reply and its own budget, whatever the connection does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from deploy.redis_local import LocalRedis
from server.redis_door import RowReader, RowUnavailable


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[RowReader]:
    one = RowReader(url)
    try:
        yield one
    finally:
        one.close()


class Proxy:
    """Between the reader and Redis. The first `deaf` connections are accepted and never answered; `greeting` is sent first."""

    def __init__(self, port: int, deaf: int = 0, greeting: bytes = b"") -> None:
        self._port, self._deaf, self._greeting = port, deaf, greeting
        self.connections = 0

    @asynccontextmanager
    async def url(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        self.connections += 1
        near_out.write(self._greeting)
        if self.connections <= self._deaf:
            await near_in.read()
        else:
            far_in, far_out = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(self._copy(near_in, far_out), self._copy(far_in, near_out))
        near_out.close()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
        sink.close()


def test_a_crowd_gets_each_its_own_reply(redis_url: str, store: redis.Redis) -> None:
    store.mset({f"k{n}": f"v{n}" for n in range(300)})

    async def play() -> list[bytes | None]:
        async with reader(redis_url) as one:
            return await asyncio.gather(*(one.get(f"k{n}", 10) for n in range(301)))

    assert asyncio.run(play()) == [*(f"v{n}".encode() for n in range(300)), None]


def test_an_expired_request_does_not_shift_the_replies_of_others(redis_url: str, store: redis.Redis) -> None:
    store.mset({"a": "1", "b": "2"})

    async def play() -> None:
        async with reader(redis_url) as one:
            await one.get("a", 10)
            store.execute_command("CLIENT", "PAUSE", 500)
            with pytest.raises(RowUnavailable):
                await one.get("a", 0.02)
            assert await one.get("b", 10) == b"2"

    asyncio.run(play())


def test_a_busy_process_is_not_a_slow_redis(redis_url: str, store: redis.Redis) -> None:
    """The loop computes through the whole budget while the reply waits in the socket."""
    store.set("a", "1")

    async def play() -> bytes | None:
        async with reader(redis_url) as one:
            await one.get("a", 10)
            waiting = asyncio.create_task(one.get("a", 0.02))
            await asyncio.sleep(0)
            busy_until = time.perf_counter() + 0.1
            while time.perf_counter() < busy_until:
                pass
            return await waiting

    assert asyncio.run(play()) == b"1"


def test_a_connection_that_owes_a_reply_too_long_is_given_up(
    redis_server: LocalRedis, redis_url: str, store: redis.Redis
) -> None:
    store.set("a", "1")

    async def play() -> None:
        proxy = Proxy(redis_server.port, deaf=1)
        async with proxy.url() as url, reader(url) as one, asyncio.timeout(20):
            answer = None
            while answer is None:
                try:
                    answer = await one.get("a", 0.05)
                except RowUnavailable:
                    continue
            assert answer == b"1"
            assert proxy.connections == 2

    asyncio.run(play())


def test_a_server_that_does_not_speak_redis_is_unavailable(redis_server: LocalRedis, redis_url: str) -> None:
    async def play() -> None:
        proxy = Proxy(redis_server.port, greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n")
        async with proxy.url() as url, reader(url) as one:
            with pytest.raises(RowUnavailable):
                await one.get("a", 5)

    asyncio.run(play())


def test_nobody_listening_is_unavailable() -> None:
    async def play() -> None:
        async with reader("redis://127.0.0.1:1/0") as one:
            with pytest.raises(RowUnavailable):
                await one.get("a", 5)

    asyncio.run(play())


def test_password_and_database_of_the_url_are_used(tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "locked").start()
    with redis.Redis.from_url(server.url) as client:
        client.select(3)
        client.set("a", "three")
        client.config_set("requirepass", "s3cret")

    async def play() -> None:
        async with reader(f"redis://:s3cret@127.0.0.1:{server.port}/3") as one:
            assert await one.get("a", 10) == b"three"
        async with reader(f"redis://:wrong@127.0.0.1:{server.port}/3") as one:
            with pytest.raises(RowUnavailable):
                await one.get("a", 10)

    asyncio.run(play())
    server.stop()


def test_a_unix_socket_serves_as_well(redis_server: LocalRedis, redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    store.set("a", "1")

    async def play() -> None:
        proxy = Proxy(redis_server.port)
        path = tmp_path / "s"
        server = await asyncio.start_unix_server(proxy._serve, path)
        async with server, reader(f"unix://{path}?db=0") as one:
            assert await one.get("a", 10) == b"1"

    asyncio.run(play())
