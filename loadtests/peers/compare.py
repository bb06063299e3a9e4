"""Servers side by side: do they agree, how much do they carry, what does a request cost, up to which rate are they quick.

All are up at once on one core and loaded in turn; the order turns with the round. What an idle server takes of that core is
measured and said. Closed loop first: alternating rounds over fixed numbers of callers. Then open loop: a curve over fixed rates
for each server, and the highest rate that it holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import redis

from contracts.errors import WorkFailed
from contracts.keys import EVENTS
from deploy.redis_local import LocalRedis
from loadtests import open_loop
from loadtests.closed_loop import call
from loadtests.open_loop import Client, ask, drive, percentiles
from loadtests.peers import picture, processes, report
from loadtests.peers.catalogue import MDREC_NAME, PEERS, Peer
from loadtests.peers.processes import Memory, Server
from loadtests.peers.report import Point, Window
from loadtests.peers.world_traffic import world_traffic
from loadtests.traffic import Traffic

K = 10
WORLD = Path(".mdrec/bench")  # where the world is built
_ASKED = 20  # users on whom answers are compared
_FRACTIONS = (0.3, 0.6, 0.8, 0.95)  # of a server's capacity, in open-loop load
_STEPS = 3  # further rates, towards the highest that is held
_MOST = 1.15  # of the capacity
_LEAST_SENT = 20
_WARMUP = 0.4
_IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """seconds: of one closed-loop window; open_seconds: of one rate, 0 for no open loop."""

    rounds: int
    seconds: float
    open_seconds: float
    callers: tuple[int, ...]


@dataclass
class Running:
    """One server under measurement. memory: after the closed-loop load; idle: share of a core taken without load; overlap: share
    of mdrec's ads in its answers (mean, least); difference: largest of p_click over ads that both answers have."""

    peer: Peer
    server: Server
    started_seconds: float
    idle: float = 0.0
    memory: Memory = field(default_factory=Memory)
    overlap: tuple[float, float] = (1.0, 1.0)
    difference: float = 0.0


@dataclass(frozen=True)
class Cores:
    """Those that this process may use, before it is pinned to one. Where there is one, it serves and asks; the report says so."""

    available: tuple[int, ...]

    @classmethod
    def of_machine(cls) -> Cores:
        return cls(tuple(sorted(os.sched_getaffinity(0))))

    @property
    def server(self) -> int:
        return self.available[0]

    @property
    def load(self) -> int:
        """The generator's, and Redis's."""
        return self.available[-1]

    def of_workers(self, workers: int) -> set[int]:
        """A core a worker as far as there are any, the generator's last."""
        return set(self.available[:workers])


def compare(names: Sequence[str], world: Path, ads: int, environments: Path, plan: Plan, out: Path) -> None:
    """Print the report; write out.json, out.md and out.png."""
    facts, cores = world_of(world, ads), Cores.of_machine()
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(pinned(cores.load))
        redis_url = stack.enter_context(world_redis(world))
        running = [_start(PEERS[one], world, redis_url, environments, cores, stack) for one in names]
        _agree(running, facts)
        _idle(running)
        windows, kernels = _closed(running, facts, world, plan, cores)
        for one in running:
            one.memory = processes.memory(one.server.pid)
        points = _open(running, facts, plan, windows) if plan.open_seconds else []
    text = _text(running, facts, windows, kernels, points, plan, cores, time.monotonic() - started)
    print(text)
    body = {
        "world": facts,
        "plan": vars(plan),
        "windows": report.as_json(windows),
        "points": report.as_json(points),
        "kernels_us": kernels,
        "servers": {
            one.peer.name: {
                "started_seconds": one.started_seconds, "idle_share": one.idle, **vars(one.memory),
                "overlap_mean": one.overlap[0], "overlap_least": one.overlap[1], "p_click_difference": one.difference,
            }
            for one in running
        },
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n")
    out.with_suffix(".md").write_text(text + "\n")
    if points:
        picture.latency_against_rate(points, out.with_suffix(".png"))


def world_of(world: Path, ads: int, domains: int = 1) -> dict[str, Any]:
    """Build it in a process of its own: torch and its memory are not wanted here."""
    command = [sys.executable, "-m", "loadtests.peers.world", str(world), "--ads", str(ads), "--domains", str(domains)]
    if not (world / "peers/world.json").is_file() and subprocess.run(command).returncode:
        raise WorkFailed(f"the world {world} could not be built", "its last line says why")
    return dict(json.loads((world / "peers/world.json").read_text()))


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process and what it starts on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def world_redis(world: Path) -> Iterator[str]:
    """The URL of the world's Redis. mdrec logs what it showed: that goes when all is done."""
    server = LocalRedis(world / "redis").start()
    try:
        yield server.url
        with redis.Redis.from_url(server.url) as client:
            client.delete(EVENTS)
    finally:
        server.stop()


def start(
    peer: Peer, world: Path, redis_url: str, environments: Path, cores: set[int], stack: ExitStack, workers: int = 1
) -> tuple[Server, float]:
    """The server once it is ready, and the seconds that took; `stack` stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    command = peer.command(environments, port, workers)
    server = Server(command, peer.environment(world, redis_url, port), cores, port, world / "logs" / f"{peer.name}.log")
    stack.callback(server.stop)
    server.wait_until(peer.ready)
    server.wait_until_calm()
    return server, time.monotonic() - began


def measure(server: Server, peer: Peer, traffic: Traffic, callers: int, seconds: float, number: int) -> Window:
    """One closed-loop window after a short warm-up by a lone caller."""
    asyncio.run(call(server.url, traffic, 1, _WARMUP, K, peer.dialect))
    before = processes.cpu_seconds(server.pid)
    found = asyncio.run(call(server.url, traffic, callers, seconds, K, peer.dialect))
    spent = processes.cpu_seconds(server.pid) - before
    known, right = percentiles(found.latency), max(1, len(found.latency))
    failures, degraded = found.failures.total(), 1 - found.rungs["full service"] / right
    cpu_ms, p50, p99 = 1e3 * spent / right, known.get("p50", 0.0), known.get("p99", 0.0)
    return Window(peer.name, callers, number, found.per_second, cpu_ms, p50, p99, failures, degraded)


def measure_open(server: Server, peer: Peer, traffic: Traffic, rate: float, seconds: float) -> Point:
    """One rate."""
    plan = open_loop.Plan(rate, seconds, warmup=1.0, k=K)
    found = asyncio.run(drive(plan, server.url, traffic, peer.dialect)).report(rate)
    known, right = found["latency_ms"], found["answered"]
    degraded = 1 - found["rungs"].get("full service", 0) / max(1, right)
    p50, p99 = known.get("p50", float("inf")), known.get("p99", float("inf"))
    return Point(peer.name, rate, p50, p99, found["sent"], right, found["late_sends"], degraded)


def _start(peer: Peer, world: Path, redis_url: str, environments: Path, cores: Cores, stack: ExitStack) -> Running:
    server, seconds = start(peer, world, redis_url, environments, {cores.server}, stack)
    _say(f"{peer.name} is up after {seconds:.1f} s")
    return Running(peer, server, seconds)


def _agree(running: Sequence[Running], facts: dict[str, Any]) -> None:
    """Ask all for the same users. Raises WorkFailed where an answer is wrong."""
    traffic = world_traffic(facts, seed=1)
    bodies = [msgspec.json.encode(traffic.recommend(K)) for _ in range(_ASKED)]
    answers = {one.peer.name: asyncio.run(_answers(one, bodies)) for one in running}
    for one in running:
        shares = []
        for ours, theirs in zip(answers[MDREC_NAME], answers[one.peer.name], strict=True):
            both = ours.keys() & theirs.keys()
            shares.append(len(both) / len(ours))
            one.difference = max([one.difference, *(abs(ours[ad] - theirs[ad]) for ad in both)])
        one.overlap = (sum(shares) / len(shares), min(shares))


async def _answers(one: Running, bodies: Sequence[bytes]) -> list[dict[str, float]]:
    """p_click by ad, of each body in turn."""
    client, found = Client(one.server.url, 1), []
    try:
        for body in bodies:
            answer, problem, _ = await ask(client, body, K, one.peer.dialect, 30.0, lambda: None)
            if problem:
                raise WorkFailed(f"{one.peer.name} answers wrongly: {problem}", "see its log in the world's directory")
            found.append({ad["ad_id"]: ad["p_click"] for ad in answer["ads"]})
    finally:
        client.close()
    return found


def _idle(running: Sequence[Running]) -> None:
    before = [processes.cpu_seconds(one.server.pid) for one in running]
    time.sleep(_IDLE_SECONDS)
    for one, spent in zip(running, before, strict=True):
        one.idle = (processes.cpu_seconds(one.server.pid) - spent) / _IDLE_SECONDS


def _closed(
    running: list[Running], facts: dict[str, Any], world: Path, plan: Plan, cores: Cores
) -> tuple[list[Window], list[dict[str, float]]]:
    windows, kernels = [], []
    for number in range(plan.rounds):
        traffic = world_traffic(facts, seed=2 + number)
        first = number % len(running)
        for one in (*running[first:], *running[:first]):
            windows += [measure(one.server, one.peer, traffic, callers, plan.seconds, number) for callers in plan.callers]
        kernels.append(_bare(world, cores.server))
        _say(f"round {number + 1} of {plan.rounds}")
    return windows, kernels


def _bare(world: Path, core: int) -> dict[str, float]:
    """Microseconds of mdrec's kernels, measured on the servers' core."""
    environment = {**os.environ, **PEERS[MDREC_NAME].environment(world, "", 0)}
    with pinned(core):
        found = subprocess.run([sys.executable, "-m", "loadtests.peers.bare"], env=environment, check=True, capture_output=True)
    return dict(json.loads(found.stdout))


def _open(running: Sequence[Running], facts: dict[str, Any], plan: Plan, windows: Sequence[Window]) -> list[Point]:
    points: list[Point] = []
    for one in running:
        most = report.capacity(windows, one.peer.name)
        traffic = world_traffic(facts, seed=1000)
        mine = [measure_open(one.server, one.peer, traffic, share * most, plan.open_seconds) for share in _FRACTIONS]
        for _ in range(_STEPS):
            rate = report.next_rate(mine, _MOST * most)
            if rate * plan.open_seconds < _LEAST_SENT:
                break  # too few answers to have a p99; it holds next to nothing
            mine.append(measure_open(one.server, one.peer, traffic, rate, plan.open_seconds))
        points += mine
        _say(f"{one.peer.name} holds {report.highest_rate(mine):.0f}/s")
    return points


def _text(
    running: Sequence[Running],
    facts: dict[str, Any],
    windows: Sequence[Window],
    kernels: Sequence[dict[str, float]],
    points: Sequence[Point],
    plan: Plan,
    cores: Cores,
    seconds: float,
) -> str:
    names = [one.peer.name for one in running]
    asked, index = facts["asked"], facts["index"]
    where = f"servers on core {cores.server}, generator and Redis on core {cores.load}"
    theirs = facts["peers_index"]
    recalls = f"recall {index['recall']:.3f}; peers {theirs['kind']} {theirs['recall']:.3f}"
    searched = f"{index['kind']} {index['parameters']} ({recalls})"
    over = f"median [min, max] of {plan.rounds} alternating rounds; {seconds / 60:.0f} minutes in all."
    lines = [f"{asked['ads']:,} ads, {facts['k']} candidates ranked, {searched}; {where}; {over}", ""]
    names_of = ("what it is", "same ads as mdrec, mean (least)", "p_click differs", "ready after s", "idle", "RSS MiB", "PSS MiB")
    lines += report.table_head("server", *names_of)
    for one in running:
        mean, least = one.overlap
        share, memory = f"{mean:.1%} ({least:.0%})", (f"{one.memory.rss:.0f}", f"{one.memory.pss:.0f}")
        cells = (one.peer.what, share, f"{one.difference:.0e}", f"{one.started_seconds:.1f}", f"{one.idle:.1%}", *memory)
        lines.append(report.row(one.peer.name, *cells))
    for callers in plan.callers:
        lines += ["", report.closed_table(windows, names, callers, MDREC_NAME)]
    lines += ["", report.kernels_line(windows, MDREC_NAME, kernels)]
    if points:
        lines += ["", report.open_table(points, names, windows, MDREC_NAME)]
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
