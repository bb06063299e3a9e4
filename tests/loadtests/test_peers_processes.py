"""Process trees: what they cost is the cost of all that descend from a server, and none of them outlives it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import WorkFailed
from loadtests.peers import processes
from loadtests.peers.processes import Server

TICKS = os.sysconf("SC_CLK_TCK")
CHILD = "import sys; print('up', flush=True); sys.stdin.read()"
PARENT = f"""
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{{child.pid}} {{sorted(os.sched_getaffinity(child.pid))}}".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _process(proc: Path, pid: int, parent: int, *ticks: int, rss: int = 0, pss: int = 0, name: str = "x") -> None:
    """ticks: user, system, and both of children that ended."""
    directory = proc / str(pid)
    directory.mkdir()
    middle = " ".join(["0"] * 9)
    (directory / "stat").write_text(f"{pid} ({name}) S {parent} {middle} {' '.join(map(str, ticks))} 20 0 1 0 {pid}")
    (directory / "smaps_rollup").write_text(f"0-1 ---p 0 0 0 [rollup]\nRss: {rss} kB\nPss: {pss} kB\nPss_Dirty: 7 kB\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """10 -> 11 -> 12, and 20, which is somebody else's."""
    _process(tmp_path, 10, 1, 3 * TICKS, TICKS, 0, 0, rss=2048, pss=1024)
    _process(tmp_path, 11, 10, TICKS, 0, 2 * TICKS, TICKS, rss=2048, pss=1024, name="ray::(odd) S 1 name")
    _process(tmp_path, 12, 11, 0, TICKS, 0, 0, rss=1024, pss=512)
    _process(tmp_path, 20, 1, 99 * TICKS, 0, 0, 0, rss=9999, pss=9999)
    (tmp_path / "uptime").write_text("not a process")
    return tmp_path


def test_a_tree_is_a_process_and_all_that_descend_from_it(proc: Path) -> None:
    assert processes.tree(10, proc) == [10, 11, 12]
    assert processes.tree(12, proc) == [12]


def test_processor_time_is_that_of_the_tree_and_of_children_that_ended(proc: Path) -> None:
    assert processes.cpu_seconds(10, proc) == pytest.approx(9.0)
    assert processes.cpu_seconds(12, proc) == pytest.approx(1.0)


def test_memory_is_added_over_the_tree(proc: Path) -> None:
    assert processes.memory(10, proc) == processes.Memory(rss=5.0, pss=2.5)


def test_processes_that_end_while_they_are_read_cost_nothing(proc: Path) -> None:
    (proc / "12" / "stat").unlink()
    (proc / "11" / "smaps_rollup").unlink()
    assert processes.tree(10, proc) == [10, 11]
    assert processes.memory(10, proc).rss == 2.0


def test_processor_time_of_a_real_process_agrees_with_its_own_account() -> None:
    busy = "import os, sys; sum(range(3_000_000)); print(sum(os.times()[:4]), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        assert processes.cpu_seconds(process.pid) == pytest.approx(own, abs=0.05)
        assert own > 0 and processes.memory(process.pid).rss > 1


def test_a_server_is_pinned_with_its_children_and_leaves_with_them(tmp_path: Path) -> None:
    import urllib.request

    core = min(os.sched_getaffinity(0))
    port = _free_port()
    server = Server([sys.executable, "-c", PARENT, str(port)], {}, {core}, port, tmp_path / "log")
    try:
        server.wait_until("/")
        child, cores = urllib.request.urlopen(server.url).read().decode().split(" ", 1)
        assert cores == f"[{core}]" and os.sched_getaffinity(server.pid) == {core}
        assert processes.tree(server.pid) == [server.pid, int(child)]
        assert processes.memory(server.pid).rss > processes.memory(int(child)).rss > 0
    finally:
        processes._STOPPED_WITHIN, kept = 0.2, processes._STOPPED_WITHIN  # this one ignores being asked
        server.stop()
        processes._STOPPED_WITHIN = kept
    assert not _lives(server.pid) and not _lives(int(child))


def test_a_server_that_leaves_at_once_is_named_with_its_log(tmp_path: Path) -> None:
    server = Server([sys.executable, "-c", "print('why'); raise SystemExit(3)"], {}, {0}, _free_port(), tmp_path / "log")
    with pytest.raises(WorkFailed, match=r"exit code 3.*log"):
        server.wait_until("/")
    server.stop()
    assert "why" in (tmp_path / "log").read_text()


def _lives(pid: int) -> bool:
    fields = processes._stat(Path("/proc") / str(pid) / "stat")
    return bool(fields) and fields[0] != "Z"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
