"""Is an acknowledged event ever lost? Clients send answers' outcomes while gateway, workers, collector and Redis are killed.

    python -m loadtests.ledger_kill [--kills 24] [--seconds-between 3] [--seed 0]

MDREC_HOME holds a bundle (`make run` once is enough) and is left as it was: what runs here keeps its data in a temporary
directory that links to its bundles. Every kill is SIGKILL. Clients send an event again, under the same id, until it is
acknowledged with 202; after the last kill everything is started once more, the stream is drained, and the ledger is held
against what was acknowledged. Exit code 1 when one acknowledged event is missing or counted twice.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from abtest import ledger
from loadtests.traffic import Traffic, dataset_directory
from loadtests.whole import Whole

_CLIENTS = 4
_AGAIN_SECONDS = 0.05
_TARGETS = ("gateway", "worker", "collector", "redis")


@dataclass
class Sent:
    """answered: request ids with an answer; acknowledged: event ids with a 202; refused: tries that got none."""

    answered: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seconds-between", type=float, default=3.0)
    parser.add_argument("--port", type=int, default=18_099)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    home = Path(os.environ.get("MDREC_HOME", ".mdrec"))
    choose = random.Random(asked.seed)
    with TemporaryDirectory() as scratch:
        world = Whole(home, Path(scratch), asked.port)
        try:
            world.wait_until_ready()
            sent, killed = _under_fire(world, asked.kills, asked.seconds_between, choose)
            world.gateway.kill()
            world.collector.kill()
            world.command("collect", "--once")
            lost = _compare(world.home / "events", sent, killed)
        finally:
            world.close()
    sys.exit(1 if lost else 0)


def _under_fire(world: Whole, kills: int, pause: float, choose: random.Random) -> tuple[list[Sent], Counter[str]]:
    over = threading.Event()
    sent = [Sent() for _ in range(_CLIENTS)]
    clients = [threading.Thread(target=_client, args=(world, number, sent[number], over)) for number in range(_CLIENTS)]
    for one in clients:
        one.start()
    killed: Counter[str] = Counter()
    for number in range(kills):
        time.sleep(pause * choose.uniform(0.5, 1.5))
        what = _TARGETS[number % len(_TARGETS)]
        before = sum(len(one.acknowledged) for one in sent)
        world.kill(what, choose)
        killed[what] += 1
        print(f"{number + 1:>3} killed: {what:<10} {before:>7,} events acknowledged before it", flush=True)
        _wait(lambda: sum(len(one.acknowledged) for one in sent) > before, 120)  # noqa: B023 (waited for here)
    time.sleep(pause)
    over.set()
    for one in clients:
        one.join()
    return sent, killed


def _client(world: Whole, number: int, sent: Sent, over: threading.Event) -> None:
    """Asks, reports the outcomes of the answer until they are acknowledged, and asks again."""
    traffic = Traffic.read(dataset_directory(), seed=number)
    while not over.is_set():
        body = traffic.recommend(k=5)
        try:
            status, answer = world.ask("POST", "/v1/recommend", body)
        except (OSError, ValueError):
            sent.refused += 1
            over.wait(_AGAIN_SECONDS)
            continue
        if status != 200:
            continue
        sent.answered.add(str(answer["request_id"]))
        events = traffic.feedback(str(body["user_id"]), answer)
        while True:  # at least once: the id makes it once
            try:
                status, receipt = world.ask("POST", "/v1/feedback", events)
            except (OSError, ValueError):
                sent.refused += 1
                time.sleep(_AGAIN_SECONDS)
                continue
            if status == 202 and not receipt["rejected"]:
                sent.acknowledged.update(one["event_id"] for one in events["events"])
                break


def _compare(directory: Path, sent: list[Sent], killed: Counter[str]) -> int:
    acknowledged = set().union(*(one.acknowledged for one in sent))
    answered = set().union(*(one.answered for one in sent))
    stored = set(ledger.feedback(directory).collect()["event_id"])
    shown = set(ledger.exposures(directory).collect()["request_id"])
    joined = ledger.join_report(directory)
    kept, missing = len(acknowledged & stored), len(acknowledged - stored)
    print(f"\nkilled: {', '.join(f'{what} {count}' for what, count in killed.items())}")
    print(f"tries that were refused or cut off: {sum(one.refused for one in sent):,}")
    print(f"acknowledged events: {len(acknowledged):,}; of these in the ledger: {kept:,}; lost: {missing:,}")
    print(f"events in the ledger, each once: {len(stored):,}; repeats in its files, counted once: {joined.duplicate_events:,}")
    kept = len(answered & shown)
    print(f"answers: {len(answered):,}; of these in the ledger: {kept:,}; lost with their worker: {len(answered) - kept:,}")
    print(f"outcomes joined: {joined.joined_events:,}; of answers that were lost: {joined.orphan_events:,}")
    return missing


def _wait(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing was answered within {seconds:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
