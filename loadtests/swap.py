"""What a start and a swap of bundles cost: seconds, and what callers feel meanwhile.

    python -m loadtests.swap --swaps 8

A gateway with one worker on a core of its own answers a few callers all the time, while its alias moves from copy to copy of one
bundle (copies, because a bundle that served last is still there and swaps at once). A request is of a swap when it was under way
between the move and the first answer of the new bundle.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter

import msgspec
import numpy as np

from contracts.aliases import Aliases
from contracts.manifest import MANIFEST, Manifest
from loadtests.open_loop import MDREC, Client, ask
from loadtests.peers import processes
from loadtests.peers.catalogue import MDREC_NAME, PEERS
from loadtests.peers.compare import WORLD, Cores, pinned, start, world_of, world_redis
from loadtests.peers.world import RECIPE
from loadtests.peers.world_traffic import world_traffic
from loadtests.traffic import Traffic

K = 10
_QUIET_SECONDS = 2.0  # between swaps
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Answer:
    """Of one request: perf_counter() seconds when it left and was answered, the bundle, and what was wrong."""

    sent: float
    done: float
    bundle_id: str
    problem: str


@dataclass(frozen=True)
class Swap:
    moved: float
    served: float


async def _drive(url: str, traffic: Traffic, aliases: Aliases, ids: list[str], callers: int) -> tuple[list[Answer], list[Swap]]:
    client, answers, swaps, over = Client(url, callers), list[Answer](), list[Swap](), asyncio.Event()
    served = {bundle_id: asyncio.Event() for bundle_id in ids}

    async def one() -> None:
        while not over.is_set():
            body, sent = msgspec.json.encode(traffic.recommend(K)), perf_counter()
            answer, problem, done = await ask(client, body, K, MDREC, _TIMEOUT, lambda: None)
            bundle_id = answer["bundle_id"] if answer else ""
            answers.append(Answer(sent, done, bundle_id, problem or ""))
            if bundle_id in served:
                served[bundle_id].set()

    async def operate() -> None:
        for bundle_id in ids:
            await asyncio.sleep(_QUIET_SECONDS)
            moved = perf_counter()
            aliases.move(RECIPE, bundle_id)
            await served[bundle_id].wait()
            swaps.append(Swap(moved, perf_counter()))
        await asyncio.sleep(_QUIET_SECONDS)
        over.set()

    try:
        await asyncio.gather(operate(), *(one() for _ in range(callers)))
    finally:
        client.close()
    return answers, swaps


def divided(answers: list[Answer], swaps: list[Swap]) -> tuple[list[Answer], list[Answer]]:
    """Those that some swap met, and the others."""
    met, others = list[Answer](), list[Answer]()
    for one in answers:
        (met if any(one.done > swap.moved and one.sent < swap.served for swap in swaps) else others).append(one)
    return met, others


def _copies(world: Path, count: int) -> list[str]:
    """Ids of that many bundles beside the one that serves, its files shared."""
    aliases = Aliases(world)
    serving = aliases.get(RECIPE)
    assert serving is not None
    source = aliases.bundle_directory(serving.bundle_id)
    ids = [f"{serving.bundle_id}.copy{number}" for number in range(count)]
    for one in ids:
        target = aliases.bundle_directory(one)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns(MANIFEST))
        Manifest.load(source).model_copy(update={"bundle_id": one}).publish(target)
    return ids


def measure(world: Path, swaps: int, callers: int) -> None:
    aliases, facts = Aliases(world), world_of(world, 100_000)
    serving = aliases.get(RECIPE)
    assert serving is not None
    cores, ids = Cores.of_machine(), _copies(world, swaps)
    try:
        with pinned(cores.load), ExitStack() as stack:
            url = stack.enter_context(world_redis(world))
            began = monotonic()
            server, _ = start(PEERS[MDREC_NAME], world, url, Path("none"), cores.of_workers(1), stack)
            print(f"ready and calm after {monotonic() - began:.1f} s", flush=True)
            before = processes.memory(server.pid).pss
            answers, made = asyncio.run(_drive(server.url, world_traffic(facts, seed=0), aliases, ids, callers))
            after = processes.memory(server.pid).pss
    finally:
        aliases.move(RECIPE, serving.bundle_id)
        for one in ids:
            shutil.rmtree(aliases.bundle_directory(one))
    during, rest = divided(answers, made)
    seconds = [swap.served - swap.moved for swap in made]
    print(f"{len(made)} swaps, {callers} callers: from the move to the first answer of the new bundle {_spread(seconds)} s")
    for name, those in (("at rest", rest), ("during a swap", during)):
        milliseconds = np.array([1e3 * (one.done - one.sent) for one in those if not one.problem])
        p50, p99 = np.percentile(milliseconds, (50, 99))
        failed = sum(bool(one.problem) for one in those)
        print(
            f"{name}: {len(those):,} requests, {failed} failed, p50 {p50:.1f} ms, p99 {p99:.1f}, longest {milliseconds.max():.1f}"
        )
    print(f"memory (PSS) {before:.0f} MiB before, {after:.0f} after")


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=WORLD)
    parser.add_argument("--swaps", type=int, default=8)
    parser.add_argument("--callers", type=int, default=2)
    given = parser.parse_args()
    measure(given.world, given.swaps, given.callers)


if __name__ == "__main__":
    main()
