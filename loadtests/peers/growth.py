"""How mdrec's gateway behaves as ads, domains, workers and callers grow.

    python -m loadtests.peers.growth --worlds .mdrec/growth

Gateways of all shapes are up at once and loaded in turn, a round after the other. Then each alone in open loop: the highest rate
it holds, and its p99 at 70 % of that over the p50 of a lone caller. At last memory, one gateway up at a time: what a worker adds
beyond another, in proportional set sizes, which divide shared pages among those that map them.

One worker has a core, two have two; where the machine has no more, the generator shares them, and figures of two workers are a
lower bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from contracts.errors import MdrecError
from loadtests.closed_loop import call
from loadtests.peers import compare, picture, processes, report
from loadtests.peers.catalogue import MDREC_NAME, PEERS
from loadtests.peers.compare import Cores, measure, measure_open
from loadtests.peers.processes import Server
from loadtests.peers.report import Point, Window, row, spread, table_head
from loadtests.peers.world_traffic import world_traffic

CALLERS = (1, 2, 4, 8, 16, 32, 64)
REPORT = Path(".mdrec/growth-report")
WORKERS = (1, 2, 3)  # of which memory is read
_FRACTIONS = (0.5, 0.7, 0.85)
_STEPS = 3
_SHARE = 0.7
_NO_ENVIRONMENTS = Path("none")


@dataclass(frozen=True)
class Shape:
    name: str
    ads: int
    domains: int
    workers: int = 1

    def world(self, worlds: Path) -> Path:
        return worlds / f"{self.ads}x{self.domains}"


@dataclass(frozen=True)
class Grown:
    """One shape's gateway. facts: what its world.json says."""

    shape: Shape
    server: Server
    facts: dict[str, Any]


def shapes(ads: int) -> list[Shape]:
    """ads: of the smallest; the others have ten times as many, twenty such domains, or two workers."""
    return [
        Shape(f"{ads:,} ads", ads, 1),
        Shape(f"{10 * ads:,} ads", 10 * ads, 1),
        Shape(f"20 domains x {ads:,}", ads, 20),
        Shape(f"{ads:,} ads, 2 workers", ads, 1, workers=2),
    ]


def grow(worlds: Path, ads: int, rounds: int, seconds: float, open_seconds: float, out: Path) -> None:
    """Print the tables; write out.json, out.md and out.png."""
    chosen = shapes(ads)
    facts = {one: compare.world_of(one.world(worlds), one.ads, one.domains) for one in chosen}
    cores = Cores.of_machine()
    with compare.pinned(cores.load):
        with ExitStack() as stack:
            urls = {path: stack.enter_context(compare.world_redis(path)) for path in {one.world(worlds) for one in chosen}}
            grown = [_start(one, worlds, urls, facts[one], cores, stack) for one in chosen]
            windows = [one for number in range(rounds) for one in _round(grown, number, seconds)]
            points = [one for shape in grown for one in _held(shape, windows, open_seconds)]
        memory = {path: [_memory(path, workers, cores) for workers in WORKERS] for path in urls}
    text = _text(chosen, windows, points, memory, rounds)
    print(text)
    body = {
        "windows": report.as_json(windows),
        "points": report.as_json(points),
        "memory_pss_mib": {path.name: dict(zip(WORKERS, values, strict=True)) for path, values in memory.items()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n")
    out.with_suffix(".md").write_text(text + "\n")
    picture.growth(windows, points, out.with_suffix(".png"))


def _start(shape: Shape, worlds: Path, urls: dict[Path, str], facts: dict[str, Any], cores: Cores, stack: ExitStack) -> Grown:
    world = shape.world(worlds)
    server, seconds = compare.start(
        PEERS[MDREC_NAME], world, urls[world], _NO_ENVIRONMENTS, cores.of_workers(shape.workers), stack, shape.workers
    )
    print(f"{shape.name}: up after {seconds:.1f} s", file=sys.stderr, flush=True)
    return Grown(shape, server, facts)


def _round(grown: Sequence[Grown], number: int, seconds: float) -> list[Window]:
    first, found = number % len(grown), []
    for one in (*grown[first:], *grown[:first]):
        traffic = world_traffic(one.facts, seed=number)
        for callers in CALLERS:
            window = measure(one.server, PEERS[MDREC_NAME], traffic, callers, seconds, number)
            found.append(replace(window, server=one.shape.name))
    return found


def _held(one: Grown, windows: Sequence[Window], seconds: float) -> list[Point]:
    """Rates about the highest that is held; last, the one at 70 % of it."""
    traffic, most = world_traffic(one.facts, seed=1000), report.capacity(windows, one.shape.name)

    def at(rate: float) -> Point:
        point = measure_open(one.server, PEERS[MDREC_NAME], traffic, rate, seconds)
        return replace(point, server=one.shape.name)

    found = [at(share * most) for share in _FRACTIONS]
    for _ in range(_STEPS):
        found.append(at(report.next_rate(found, 1.15 * most)))
    held = report.highest_rate(found)
    return [*found, at(_SHARE * held)] if held else found


def _memory(world: Path, workers: int, cores: Cores) -> float:
    """PSS in MiB of a gateway that is alone and has answered every worker's share of a few hundred requests."""
    with ExitStack() as stack:
        url = stack.enter_context(compare.world_redis(world))
        facts = json.loads((world / "peers/world.json").read_text())
        server, _ = compare.start(PEERS[MDREC_NAME], world, url, _NO_ENVIRONMENTS, cores.of_workers(workers), stack, workers)
        asyncio.run(call(server.url, world_traffic(facts, seed=0), 16, 2.0))
        return processes.memory(server.pid).pss


def _text(
    chosen: Sequence[Shape], windows: Sequence[Window], points: Sequence[Point], memory: dict[Path, list[float]], rounds: int
) -> str:
    first = chosen[0].name
    lines = [f"mdrec's gateway; median [min, max] of {rounds} alternating rounds; ratios within rounds.", ""]
    lines += table_head(
        "shape", "requests/s", "of the first shape's", "CPU ms a request", "p50 of a lone caller, ms",
        "highest rate/s with p99 <= 60 ms", f"p99 at {_SHARE:.0%} of it, ms", "that over the lone p50",
    )  # fmt: skip
    for shape in chosen:
        best = _best_callers(windows, shape.name)
        mine = [one for one in windows if one.server == shape.name and one.callers == best]
        of_first = ratios_of_best(windows, shape.name, first)
        lone = median(one.p50_ms for one in windows if one.server == shape.name and one.callers == 1)
        rates = [one for one in points if one.server == shape.name]
        held, last = report.highest_rate(rates[:-1]), rates[-1]
        p99 = (f"{last.p99_ms:.1f}", f"{last.p99_ms / lone:.1f}") if held else ("", "")
        figures = (
            f"{spread(one.per_second for one in mine)} ({best} callers)",
            str(spread(of_first)) if shape.name != first else "",
        )
        lines.append(row(shape.name, *figures, str(spread(one.cpu_ms for one in mine)), f"{lone:.2f}", f"{held:.0f}", *p99))
    lines += ["", "Requests a second by callers at once:", "", *table_head("shape", *map(str, CALLERS))]
    for shape in chosen:
        lines.append(row(shape.name, *(f"{_rate(windows, shape.name, callers):.0f}" for callers in CALLERS)))
    lines += ["", "Memory (PSS of the whole tree, MiB) by workers, and what the third adds:", ""]
    lines += table_head("world", *map(str, WORKERS), "one more")
    for path, values in memory.items():
        lines.append(row(path.name, *(f"{value:.0f}" for value in values), f"{values[-1] - values[-2]:.0f}"))
    return "\n".join(lines)


def ratios_of_best(windows: Sequence[Window], of: str, to: str) -> list[float]:
    """One a round: best rate over the numbers of callers, of one shape over another's."""
    rounds = sorted({one.round for one in windows})

    def best(server: str, number: int) -> float:
        return max(one.per_second for one in windows if one.server == server and one.round == number)

    return [best(of, one) / best(to, one) for one in rounds]


def _rate(windows: Sequence[Window], server: str, callers: int) -> float:
    return median(one.per_second for one in windows if one.server == server and one.callers == callers)


def _best_callers(windows: Sequence[Window], server: str) -> int:
    return max(CALLERS, key=lambda callers: _rate(windows, server, callers))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=Path, default=Path(".mdrec/growth"), help="where worlds are, or are built")
    parser.add_argument("--ads", type=int, default=100_000, help="of the smallest shape; the largest has ten times as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of closed-loop load, a shape, round and number of callers")
    parser.add_argument("--open-seconds", type=float, default=8.0, help="of open-loop load, a shape and rate")
    parser.add_argument(
        "--out", type=Path, default=Path(".mdrec/growth-report"), help="stem of the .json, .md and .png that are written"
    )
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped on the way out
    try:
        grow(given.worlds, given.ads, given.rounds, given.seconds, given.open_seconds, given.out)
    except MdrecError as error:
        print(f"error {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
