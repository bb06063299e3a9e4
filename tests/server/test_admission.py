"""Overload is a quick 503 with Retry-After, and permits come back however a request ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import httpx
import pytest

from deploy.redis_local import LocalRedis
from server.metrics import Metrics
from server.permits import Permits
from server.settings import Settings
from tests.server.live import Running, eventually, running
from tests.server.worlds import World

BODY = {"user_id": "u1", "domain": "feed"}


@pytest.fixture
def stopped(home: Path, world: World, tmp_path: Path):
    """A gateway of one permit and a queue of one whose Redis stands still: requests stay until released."""
    server = LocalRedis(tmp_path / "own-redis").start()
    settings = Settings(
        home=home, redis_url=server.url, redis_timeout_ms=20_000, max_concurrent=1, max_queue=1, queue_timeout_ms=20_000
    )
    with running(settings) as served:
        served.recommend()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            yield served, lambda: os.kill(server.pid, signal.SIGCONT)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    server.stop()


def ask(served: Running, domain: str = "feed") -> httpx.Response:
    return httpx.post(f"{served.url}/v1/recommend", json={**BODY, "domain": domain}, timeout=60)


def test_beyond_the_queue_requests_are_turned_away_at_once(stopped) -> None:
    served, release = stopped
    with ThreadPoolExecutor(2) as pool:
        admitted = [pool.submit(ask, served) for _ in range(2)]
        eventually(lambda: served.metric("mdrec_queue_depth") == 1)
        turned_away = ask(served)
        assert turned_away.status_code == 503
        assert turned_away.headers["retry-after"] == "1"
        assert turned_away.headers["content-type"] == "application/problem+json"
        assert served.client.get("/livez").status_code == 200
        release()
        assert [one.result().status_code for one in admitted] == [200, 200]
    assert served.metric("mdrec_shed_total", reason="queue_full") == 1
    assert served.metric("mdrec_queue_depth") == 0
    assert ask(served).status_code == 200


def test_waiting_too_long_for_a_permit_is_503(home: Path, world: World, tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "own-redis").start()
    settings = Settings(home=home, redis_url=server.url, redis_timeout_ms=20_000, max_concurrent=1, queue_timeout_ms=50)
    with running(settings) as served:
        served.recommend()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(ask, served)
                eventually(lambda: served.gateway.permits.in_work == 1)
                assert ask(served).status_code == 503
                os.kill(server.pid, signal.SIGCONT)
                assert first.result().status_code == 200
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert served.metric("mdrec_shed_total", reason="queue_timeout") == 1
    server.stop()


def test_clients_that_leave_give_their_permits_back(stopped) -> None:
    served, release = stopped
    host, port = served.url.removeprefix("http://").split(":")
    body = b'{"user_id": "u1", "domain": "feed"}'
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(2):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head + body)
            eventually(lambda: served.gateway.permits.in_work == 1)
    eventually(lambda: served.metric("mdrec_queue_depth") == 1)
    release()
    eventually(lambda: served.gateway.permits.in_work == 0)
    assert ask(served).status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(served: Running) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"POST /v1/recommend HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert served.recommend()["degraded"] == []


def test_a_spike_in_one_domain_leaves_room_for_the_others(home: Path, world: World, tmp_path: Path) -> None:
    """Four permits and four places, three of each for one domain: six are admitted, the seventh is not, others are."""
    server = LocalRedis(tmp_path / "own-redis").start()
    settings = Settings(
        home=home, redis_url=server.url, redis_timeout_ms=20_000, max_concurrent=4, max_queue=4, queue_timeout_ms=20_000
    )
    with running(settings) as served:
        served.recommend()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(7) as pool:
                spike = [pool.submit(ask, served) for _ in range(6)]
                eventually(lambda: served.metric("mdrec_queue_depth") == 3)
                assert ask(served).status_code == 503
                other = pool.submit(ask, served, "mail")
                eventually(lambda: served.gateway.permits.in_work == 4)
                os.kill(server.pid, signal.SIGCONT)
                assert [one.result().status_code for one in [*spike, other]] == [200] * 7
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert served.gateway.permits.in_work == 0
    server.stop()


@pytest.mark.parametrize("seed", range(5))
def test_permits_are_never_lost_or_exceeded(seed: int) -> None:
    """Random arrivals, failures and cancellations: the bounds hold throughout and everything is free at the end."""

    async def play() -> None:
        random = Random(seed)
        permits = Permits(4, 6, 0.5, 5, 1, Metrics())
        in_work: Counter[str] = Counter()

        async def one(domain: str) -> None:
            async with permits.of(domain):
                in_work[domain] += 1
                assert in_work.total() <= 4
                assert in_work[domain] <= 2
                try:
                    for _ in range(random.randrange(4)):
                        await asyncio.sleep(0)
                    if random.random() < 0.2:
                        raise ValueError("failed inside")
                finally:
                    in_work[domain] -= 1

        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(one(random.choice("abc"))))
            if random.random() < 0.2:
                random.choice(tasks).cancel()
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert permits.in_work == 0
        assert results.count(None) > 50
        async with permits.of("a"), permits.of("a"), permits.of("b"), permits.of("b"):
            assert permits.in_work == 4

    asyncio.run(play())
