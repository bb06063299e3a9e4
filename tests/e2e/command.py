"""The `mdrec` command as a person runs it: a process of its own, a real Redis under its home, real HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

MDREC = str(Path(sys.executable).with_name("mdrec"))
_READY = re.compile(r"mdrec is ready on (http://\S+)")
_START_SECONDS = 240


def environment(home: Path, **more: str) -> dict[str, str]:
    """One thread a process: the suite shares two cores. No Redis but the command's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MDREC_")}
    return {**kept, "MDREC_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def mdrec(home: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [MDREC, *map(str, arguments)]
    return subprocess.run(command, env=environment(home, **more), capture_output=True, text=True, timeout=900, check=False)


class Gateway:
    """A running `mdrec serve` and a client for it."""

    def __init__(self, process: subprocess.Popen[str], url: str, said: list[str]) -> None:
        self.process, self.url, self.said = process, url, said
        self.client = httpx.Client(base_url=url, timeout=30)

    def recommend(self, user_id: str, domain: str, **fields: object) -> dict:
        answer = self.client.post("/v1/recommend", json={"user_id": user_id, "domain": domain, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def serving(home: Path, *arguments: str, **more: str) -> Iterator[Gateway]:
    """`mdrec serve` (or what `arguments` say) on a free port until the block ends, then Ctrl-C."""
    command = [MDREC, *(arguments or ("serve",)), "--port", str(_free_port())]
    process = subprocess.Popen(
        command, env=environment(home, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said: list[str] = []
    ready = threading.Event()
    url: list[str] = []

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            found = _READY.search(line)
            if found:
                url.append(found.group(1))
                ready.set()
        ready.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert ready.wait(_START_SECONDS) and url, "\n".join(said)
        yield Gateway(process, url[0], said)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
