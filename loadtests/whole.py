"""A whole mdrec for a measurement: Redis, gateway workers and a collector, in a home that borrows another's bundles."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from contracts.errors import WorkFailed
from contracts.processes import die_with_owner
from deploy.redis_local import LocalRedis
from loadtests.peers.processes import children, tree

_GONE_SECONDS = 30.0
_ANSWERED_WITHIN = 5.0


class Process:
    """A command that is started, killed and started again."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._arguments, self._environment, self._log = arguments, environment, log
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "deploy.cli", *self._arguments]
        with self._log.open("ab") as out:
            self._running = subprocess.Popen(
                command, env=self._environment, stdout=out, stderr=out, preexec_fn=die_with_owner(os.getpid())
            )

    @property
    def pid(self) -> int:
        return self._running.pid

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()

    def workers(self) -> list[int]:
        """Of a gateway: they are forked from a process of its own that has imported what they need (server/preload.py)."""
        return [pid for child in children(self.pid) for pid in tree(child)[1:]]


class Whole:
    """Started on creation; `close` ends all of it. home: whose bundles and aliases are taken; scratch: an empty directory."""

    def __init__(self, home: Path, scratch: Path, port: int, **environment: str) -> None:
        self.home, self.url = scratch / "home", f"http://127.0.0.1:{port}"
        self.home.mkdir()
        shutil.copytree(home / "aliases", self.home / "aliases")
        (self.home / "bundles").symlink_to((home / "bundles").resolve())
        self.redis = LocalRedis(scratch / "redis").start()
        ours = {"MDREC_HOME": str(self.home), "MDREC_REDIS_URL": self.redis.url, "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **ours, **environment}
        log = scratch / "log"
        self.gateway = Process(["serve", "--port", str(port), "--workers", "2"], self.environment, log)
        self.collector = Process(["collect", "--every", "1"], self.environment, log)

    def wait_until_ready(self, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
            if time.monotonic() > deadline:
                raise WorkFailed(f"{self.url} was not ready within {seconds:g} s")

    def close(self) -> None:
        self.gateway.kill()
        self.collector.kill()
        self.redis.stop()

    def command(self, *arguments: str) -> str:
        """What `mdrec ARGUMENTS` prints. Raises CalledProcessError."""
        run = [sys.executable, "-m", "deploy.cli", *arguments]
        return subprocess.run(run, env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def kill(self, what: str, choose: random.Random) -> None:
        """SIGKILL, and what an init system would then do."""
        if what == "worker":
            found = self.gateway.workers()
            if found:
                os.kill(choose.choice(found), signal.SIGKILL)  # its parent starts another
        elif what == "redis":
            os.kill(self.redis.pid or 0, signal.SIGKILL)
            self.redis.stop()
            self.redis.start()
        elif what == "gateway":
            workers = self.gateway.workers()
            self.gateway.kill()
            _until_gone(workers)  # they follow their parent; until then they hold the port
            self.gateway.start()
        else:
            self.collector.kill()
            self.collector.start()

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and parsed answer. Raises HTTPError (an OSError) for any status from 400 on."""
        data = None if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data, given, method=method)
        with urllib.request.urlopen(request, timeout=_ANSWERED_WITHIN) as answer:
            return answer.status, json.loads(answer.read())


def _until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + _GONE_SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            raise WorkFailed(f"processes {pids} outlive their parent by {_GONE_SECONDS:g} s")
        time.sleep(0.05)
