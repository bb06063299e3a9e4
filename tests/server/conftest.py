"""A gateway as users meet it: real uvicorn on loopback, real Redis, real bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from deploy.redis_local import LocalRedis
from server.settings import Settings
from tests.server.live import Running, running
from tests.server.worlds import World

TOKEN = "open sesame"


@pytest.fixture
def settings(home: Path, redis_url: str) -> Settings:
    """A generous budget, so that a busy machine does not degrade answers; tests of the budget set their own."""
    return Settings(
        home=home, redis_url=redis_url, redis_timeout_ms=2000, alias_poll_seconds=0.05, operator_token=SecretStr(TOKEN)
    )


@pytest.fixture(scope="session")
def checkerboard() -> World:
    return World()


@pytest.fixture(scope="session")
def shared(checkerboard: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway, with a Redis that nobody else writes to, for tests that only ask."""
    home = tmp_path_factory.mktemp("shared")
    checkerboard.build(home)
    server = LocalRedis(home / "redis").start()
    with running(Settings(home=home, redis_url=server.url, redis_timeout_ms=2000, operator_token=SecretStr(TOKEN))) as one:
        yield one
    server.stop()


@pytest.fixture(scope="session")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway with a token and a Redis of its own, for tests of requests to operate it that change nothing."""
    home = tmp_path_factory.mktemp("unchanged")
    World(with_features=True).build(home)
    server = LocalRedis(home / "redis").start()
    settings = Settings(home=home, redis_url=server.url, redis_timeout_ms=2000, operator_token=SecretStr(TOKEN))
    with running(settings) as one:
        yield one
    server.stop()


@pytest.fixture
def world(home: Path) -> World:
    world = World()
    world.build(home)
    return world


@pytest.fixture
def served(world: World, settings: Settings) -> Iterator[Running]:
    with running(settings) as one:
        yield one


@pytest.fixture
def store(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[LocalRedis]:
    """A server that a test may stop and kill."""
    server = LocalRedis(tmp_path / "own-redis").start()
    yield server
    server.stop()
