"""Workers are forked from one process that has imported what they need: they share it, and nobody outlives the gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.peers.processes import children, tree
from server.app import _HEALTHCHECK_SECONDS
from tests.server.live import eventually, fresh, started
from tests.server.worlds import World

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker starts from nothing")


def test_nothing_that_a_fork_would_break_is_imported_before_it(home: Path) -> None:
    code = "import sys, server.preload; print('onnxruntime' in sys.modules, 'server.fused.rankers' in sys.modules)"
    environment = {**os.environ, "MDREC_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"], found.stderr


def test_a_worker_that_dies_is_forked_again_and_a_killed_gateway_takes_all_with_it(home: Path, redis_url: str) -> None:
    World().build(home)
    gateway, url = started(home, redis_url)
    try:
        all_of_it = tree(gateway.pid)

        def workers() -> list[int]:
            return [pid for child in children(gateway.pid) for pid in tree(child)[1:]]

        one, other = eventually(lambda: len(found := workers()) == 2 and found)
        os.kill(one, signal.SIGKILL)
        # one that dies while its owner waits for a sign of life is missed when that wait is over, and not before
        again = eventually(lambda: len(found := workers()) == 2 and one not in found and found, 2 * _HEALTHCHECK_SECONDS)
        assert other in again
        eventually(lambda: fresh("GET", f"{url}/readyz").status_code == 200)
    finally:
        gateway.kill()
        gateway.wait()
    eventually(lambda: not any(_lives(pid) for pid in {*all_of_it, *again}), 60)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
