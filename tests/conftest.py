"""Shared by every room's tests: a real Redis for the session, emptied before each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from deploy.redis_local import LocalRedis

_TOGETHER = ("tests/e2e/", "tests/server/test_fused", "tests/server/console/")  # they share nights, compiled kernels, a browser
_FIRST = ("tests/e2e/", "tests/test_readme.py")  # the longest: begun last, they would keep one process busy and the other idle


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In processes side by side (`--dist loadfile`), tests that share what is dear to make share a process: those of a file, and
    those of files that go together."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((one for one in _TOGETHER if nodeid.startswith(one)), super()._split_scope(nodeid))

    return Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # of xdist: side by side, what comes first decides how long it takes
        items.sort(key=lambda item: next((at for at, one in enumerate(_FIRST) if item.nodeid.startswith(one)), len(_FIRST)))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: LocalRedis) -> str:
    """URL of an empty, real Redis."""
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh MDREC_HOME."""
    monkeypatch.setenv("MDREC_HOME", str(tmp_path))
    return tmp_path
