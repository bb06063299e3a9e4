"""A night's retrievers and rankers are trained at once, in a process each: neither needs the other.

A process has half of the cores. What fails or is killed there is left to the night itself, which trains it again from its last
epoch, with all cores and memory for itself, and meets whatever is wrong where it can hold back one recipe alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from deploy.halves import Halves, Side
from deploy.steps import Steps, Watch
from trainer import workers
from trainer.tables import Tables

Names = Mapping[Side, Sequence[str]]


def train(
    tables: Path, facts: Mapping[str, Any], seed: int, names: Names, work: Path, say: Callable[[str], None], watch: Watch
) -> None:
    """Have every half of `names` trained through the test, unless it has been, where that gains time: both sides have work, and
    there are two cores. work: the directory of the night's steps."""
    halves = Halves(Tables.open(tables), facts, Steps(work, say), seed)
    wanted: dict[Side, list[str]] = {side: [one for one in of if not halves.finished(side, one)] for side, of in names.items()}
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if cores < 2 or not all(wanted.values()):
        return
    context = get_context("spawn")
    heard, running = {}, []
    try:
        for side, of_side in wanted.items():
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_train, args=(theirs, tables, dict(facts), seed, side, of_side, work, cores // 2))
            process.start()
            theirs.close()  # so that the other end closes with the process
            heard[ours] = process
            running.append(process)
        while heard:
            for one in wait(list(heard)):
                assert isinstance(one, Connection)
                try:
                    told = json.loads(one.recv_bytes())
                except (EOFError, OSError):  # it ended, perhaps in the middle of a word
                    process = heard.pop(one)
                    process.join()
                    if process.exitcode:
                        say(f"a process that trained ended with {process.exitcode}: the night trains on by itself")
                    continue
                if isinstance(told, str):
                    say(told)
                else:
                    watch(*told)
    finally:
        for process in running:
            process.terminate()
            process.join()


def _train(
    told: Connection, tables: Path, facts: dict[str, Any], seed: int, side: Side, names: list[str], work: Path, threads: int
) -> None:
    """In the new process. What it says and what its steps take is sent as JSON: text, or [name, seconds, reused]."""
    workers.begin(threads)

    def tell(value: str | list[Any]) -> None:
        told.send_bytes(json.dumps(value).encode())

    steps = Steps(work, tell, lambda *step: tell(list(step)))
    halves = Halves(Tables.open(tables), facts, steps, seed)
    for name in names:
        halves.train(side, name)
