"""Servers as process trees: started on given cores, their processor time and memory read from /proc, stopped as a whole.

Linux only. A tree is a process and all that descend from it: a framework's proxies, workers and daemons are part of its cost.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import WorkFailed
from contracts.processes import die_with_owner

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_STARTED_WITHIN = 120.0
_STOPPED_WITHIN = 15.0
_CALM_SECONDS, _CALM_SHARE = 1.0, 0.15  # of a core; daemons never rest quite


@dataclass(frozen=True)
class Memory:
    """MiB of a tree. rss: sum over its processes, shared pages counted in each; pss: shared pages divided among those that
    map them."""

    rss: float = 0.0
    pss: float = 0.0


def tree(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """`pid` and its living descendants."""
    by_parent = _by_parent(proc)
    found, at = [pid], 0
    while at < len(found):
        found += by_parent.get(found[at], [])
        at += 1
    return found


def children(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Those that `pid` started itself and that live."""
    return _by_parent(proc).get(pid, [])


def _by_parent(proc: Path) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        fields = _stat(stat)
        if fields:
            found.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    return found


def cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """Processor time of the tree so far, user and system, with that of children which have ended and were waited for: so the
    difference of two readings loses no worker that left in between."""
    ticks = 0
    for one in tree(pid, proc):
        fields = _stat(proc / str(one) / "stat")
        ticks += sum(int(value) for value in fields[11:15])  # utime, stime, cutime, cstime
    return ticks * _TICK_SECONDS


def memory(pid: int, proc: Path = Path("/proc")) -> Memory:
    rss = pss = 0
    for one in tree(pid, proc):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            text = (proc / str(one) / "smaps_rollup").read_text()
            rss += int(re.findall(r"^Rss:\s+(\d+)", text, re.M)[0])
            pss += int(re.findall(r"^Pss:\s+(\d+)", text, re.M)[0])
    return Memory(rss / 1024, pss / 1024)


def _stat(path: Path) -> list[str]:
    """The fields after the command's name, which may hold anything: state, parent, ...; none where the process has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _born(pid: int) -> str | None:
    """When the process started, in ticks since boot; None once it has ended, whether or not its parent took note."""
    fields = _stat(Path("/proc") / str(pid) / "stat")
    return fields[19] if fields and fields[0] not in "ZX" else None


class Server:
    """One server on `port`, which leaves with us. log: a file for all that it prints."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cores: set[int], port: int, log: Path) -> None:
        self.url, self._log = f"http://127.0.0.1:{port}", log
        follow = die_with_owner(os.getpid())

        def prepare() -> None:
            follow()  # in a process group of its own
            os.sched_setaffinity(0, cores)

        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=prepare
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, path: str, seconds: float = _STARTED_WITHIN) -> None:
        """Until GET `path` answers 200. Raises WorkFailed when the server left or took too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise WorkFailed(f"the server left with exit code {self._process.returncode}", f"see {self._log}")
            try:
                with urllib.request.urlopen(self.url + path, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise WorkFailed(f"{self.url}{path} did not answer within {seconds:g} s", f"see {self._log}")

    def wait_until_calm(self, seconds: float = 20.0) -> None:
        """Until the tree has stopped starting: one worker that is ready says nothing of the others. One that never rests is
        waited for no longer than that: what it takes while idle is measured and said."""
        deadline, before, now = time.monotonic() + seconds, -1.0, cpu_seconds(self.pid)
        while now - before > _CALM_SHARE * _CALM_SECONDS and time.monotonic() < deadline:
            time.sleep(_CALM_SECONDS)
            before, now = now, cpu_seconds(self.pid)

    def stop(self) -> None:
        """Ask the first process, then end what is left of the tree."""
        every = {one: _born(one) for one in tree(self.pid)}
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOPPED_WITHIN)
        self._process.poll()
        for one, born in every.items():
            if born is not None and _born(one) == born:  # not another process that got its number
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        self._process.wait()
        while any(born is not None and _born(one) == born for one, born in every.items()):
            time.sleep(0.01)  # a killed process takes a moment to go
