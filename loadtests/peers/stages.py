"""Where a request's time goes: stage by stage, as the gateway's own metrics tell, and what of its processor time is no stage's.

    python -m loadtests.peers.stages [--world DIR] [--callers 1 8 64]

One worker on one core, the generator and Redis on another. With callers at once, requests that meet are retrieved and ranked
together (server/together.py): each is told the whole time of the run it was in, so that stages add up to what the lone caller's
do only there.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import MdrecError
from loadtests.closed_loop import call
from loadtests.peers import compare, processes
from loadtests.peers.catalogue import MDREC_NAME, PEERS
from loadtests.peers.report import row, table_head
from loadtests.peers.world_traffic import world_traffic

STAGES = ("hydrate", "encode", "retrieve", "filter", "rank", "select")
_STAGE, _REST = "mdrec_stage_duration_seconds", "no stage's"
_NO_ENVIRONMENTS = Path("none")


def stage_sums(exposition: str) -> dict[str, tuple[float, float]]:
    """stage -> (seconds, times) over all domains and recipes, of a page of Prometheus metrics."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for family in text_string_to_metric_families(exposition):
        if family.name == _STAGE:
            for sample in family.samples:
                kind = sample.name.removeprefix(_STAGE)
                if kind in ("_sum", "_count"):
                    found[sample.labels["stage"]][kind == "_count"] += sample.value
    return {stage: (seconds, times) for stage, (seconds, times) in found.items()}


def between(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Milliseconds of each stage that ran in between, a time."""
    gained = {
        stage: tuple(now - was for now, was in zip(after[stage], before.get(stage, (0.0, 0.0)), strict=True)) for stage in after
    }
    return {stage: 1e3 * seconds / times for stage, (seconds, times) in gained.items() if times}


def table(rounds: Mapping[int, list[dict[str, float]]]) -> str:
    """rounds: callers -> a dict a round of milliseconds by stage, `cpu` among them; medians of the rounds."""
    lines = [*table_head("callers", *STAGES, "sum", "CPU ms a request", _REST)]
    for callers, found in rounds.items():
        middle = {name: median(one[name] for one in found) for name in (*STAGES, "cpu")}
        total = sum(middle[stage] for stage in STAGES)
        rest = f"{middle['cpu'] - total:.2f}" if callers == 1 else ""
        lines.append(
            row(str(callers), *(f"{middle[stage]:.2f}" for stage in STAGES), f"{total:.2f}", f"{middle['cpu']:.2f}", rest)
        )
    return "\n".join(lines)


def measure(world: Path, callers: list[int], rounds: int, seconds: float) -> str:
    """The table, of alternating rounds after one that is not counted."""
    facts, cores = compare.world_of(world, 100_000), compare.Cores.of_machine()
    found: dict[int, list[dict[str, float]]] = {one: [] for one in callers}
    with compare.pinned(cores.load), ExitStack() as stack:
        url = stack.enter_context(compare.world_redis(world))
        server, _ = compare.start(PEERS[MDREC_NAME], world, url, _NO_ENVIRONMENTS, cores.of_workers(1), stack, 1)

        def state() -> tuple[dict[str, tuple[float, float]], float]:
            with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
                sums = stage_sums(answer.read().decode())
            return sums, processes.cpu_seconds(server.pid)

        for number in range(1 + rounds):
            for one in callers:
                before, spent = state()
                answers = asyncio.run(call(server.url, world_traffic(facts, seed=number), one, seconds))
                cpu = processes.cpu_seconds(server.pid) - spent
                after, _ = state()
                if number:
                    found[one].append({**between(before, after), "cpu": 1e3 * cpu / max(1, len(answers.latency))})
    return table(found)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers.stages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, default=compare.WORLD)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, a round and number of callers")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped on the way out
    try:
        print(measure(given.world, given.callers, given.rounds, given.seconds))
    except MdrecError as error:
        print(f"error {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
