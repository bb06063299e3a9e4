"""The GPU's owner thread: batches form while it is busy, one bad request harms no other, and answers equal a CPU's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import stages
from server.bundle import Bundle
from server.device import Device
from server.inference import F32, Feeds, Graph
from server.metrics import Metrics
from server.stages import Work
from tests.server.crowd import assert_same_answers, one_by_one, pipeline, questions
from tests.server.worlds import World


class Gate:
    """A handler that notes the lists it gets; the first call lasts until `opened`."""

    def __init__(self) -> None:
        self.lists: list[list[Any]] = []
        self.entered, self.opened = threading.Event(), threading.Event()
        self.threads: set[int] = set()

    def __call__(self, works: Sequence[Any]) -> None:
        self.threads.add(threading.get_ident())
        self.lists.append(list(works))
        self.entered.set()
        assert self.opened.wait(10)
        for work in works:
            if work == "bad":
                raise ValueError("bad")


async def _meanwhile(gate: Gate, device: Device, *later: tuple[str, Any]) -> list[Any]:
    """`first` is begun; `later` arrives while it is at work."""
    tasks = [asyncio.create_task(device.do("a", gate, "first"))]
    await asyncio.to_thread(gate.entered.wait, 10)
    for kind, work in later:
        tasks.append(asyncio.create_task(device.do(kind, gate, work)))
        await asyncio.sleep(0)
    gate.opened.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_arrives_while_it_is_busy_is_done_together_by_kind_and_on_one_thread() -> None:
    gate, device = Gate(), Device()
    answers = asyncio.run(_meanwhile(gate, device, ("a", 1), ("b", 2), ("a", 3), ("b", 4)))
    device.close()
    assert answers == [None] * 5
    assert gate.lists == [["first"], [1, 3], [2, 4]]
    assert len(gate.threads) == 1 and threading.get_ident() not in gate.threads


def test_one_bad_request_harms_no_other() -> None:
    gate, device = Gate(), Device()
    answers = asyncio.run(_meanwhile(gate, device, ("a", 1), ("a", "bad"), ("a", 3)))
    device.close()
    assert answers[:2] == [None, None] and isinstance(answers[2], ValueError) and answers[3] is None


def test_who_gave_up_is_not_worked_for() -> None:
    gate, device = Gate(), Device()

    async def run() -> None:
        first = asyncio.create_task(device.do("a", gate, "first"))
        await asyncio.to_thread(gate.entered.wait, 10)
        gone, stays = (asyncio.create_task(device.do("a", gate, one)) for one in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(first, stays)
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
    device.close()
    assert gate.lists == [["first"], ["stays"]]


def test_closing_finishes_what_was_asked_for() -> None:
    gate, device = Gate(), Device()
    gate.opened.set()

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(device.do(number, gate, number)) for number in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(device.close)
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [None] * 20
    assert np.concatenate([np.array(one) for one in gate.lists]).tolist() == list(range(20))


def test_requests_that_meet_on_a_device_are_answered_as_alone(home: Path) -> None:
    world = World(ads=240, inactive=(3, 8))
    bundle = Bundle(world.build(home))
    asked = questions(world)
    gate = Gate()
    sizes: list[float] = []

    class Sizes:
        observe = staticmethod(sizes.append)

    device = Device(Sizes())  # type: ignore[arg-type]

    async def meet() -> list[Work]:
        first = asyncio.create_task(device.do("gate", gate, "first"))
        await asyncio.to_thread(gate.entered.wait, 10)
        met = pipeline(world, Metrics(), device)
        tasks = [asyncio.create_task(met.recommend(bundle, one)) for one in asked]
        await asyncio.sleep(0)  # by now each of them has asked the device
        gate.opened.set()
        await first
        return [work for work, _ in await asyncio.gather(*tasks)]

    together, alone = asyncio.run(meet()), asyncio.run(one_by_one(pipeline(world, Metrics()), bundle, asked))
    device.close()
    assert sizes[:5] == [1, *[15] * 4]  # the gate, then the searches of each domain in one call
    assert_same_answers(alone, together)


def test_requests_of_one_domain_are_ranked_in_one_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ads=240)
    bundle = Bundle(world.build(home))
    here = [one for one in questions(world) if one.domain == world.domains[0]]
    works = asyncio.run(one_by_one(pipeline(world, Metrics()), bundle, here))
    for number, work in enumerate(works):
        work.rows = work.rows[: 3 + number]
        stages.rank(work)
    alone = [(work.p_click, work.rank_scores) for work in works]
    counts: list[int] = []
    run = Graph.run

    def counted(graph: Graph, feeds: Feeds) -> F32:
        counts.append(len(feeds["ad_codes"]))
        return run(graph, feeds)

    monkeypatch.setattr(Graph, "run", counted)
    stages.rank_at_once(works)
    assert counts == [sum(len(work.rows) for work in works)]
    for work, (p_click, rank_scores) in zip(works, alone, strict=True):
        assert work.p_click is not None and p_click is not None
        np.testing.assert_allclose(work.p_click, p_click, rtol=1e-5)
        np.testing.assert_allclose(work.rank_scores, rank_scores, rtol=1e-5)
