"""Requests that meet on the event loop: by kind and turn, no harm of one to another, and the answers of alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.bundle import Bundle
from server.metrics import Metrics
from server.stages import Work
from server.together import Meeting
from tests.server.crowd import assert_same_answers, one_by_one, pipeline, questions
from tests.server.worlds import World


class Noted:
    """A handler that notes the lists it gets, and fails where `bad` is in one."""

    def __init__(self) -> None:
        self.lists: list[list[Any]] = []

    def __call__(self, works: Sequence[Any]) -> None:
        self.lists.append(list(works))
        if "bad" in works:
            raise ValueError("bad")


async def _given(meeting: Meeting, handler: Noted, *works: tuple[str, Any]) -> list[Any]:
    return await asyncio.gather(*(meeting.do(kind, handler, work) for kind, work in works), return_exceptions=True)


def test_what_came_in_one_turn_is_done_together_by_kind() -> None:
    handler, meeting = Noted(), Meeting()

    async def run() -> None:
        assert await _given(meeting, handler, ("a", 1), ("b", 2), ("a", 3)) == [None] * 3
        assert await _given(meeting, handler, ("a", 4)) == [None]

    asyncio.run(run())
    assert handler.lists == [[1, 3], [2], [4]]


def test_a_bad_one_fails_alone() -> None:
    handler = Noted()
    answers = asyncio.run(_given(Meeting(), handler, ("a", 1), ("a", "bad"), ("a", 3)))
    assert handler.lists == [[1, "bad", 3], [1], ["bad"], [3]]
    assert answers[0] is None and isinstance(answers[1], ValueError) and answers[2] is None


@pytest.mark.parametrize("stay", [True, False])
def test_who_gave_up_before_it_began_is_not_worked_for(stay: bool) -> None:
    handler, meeting = Noted(), Meeting()

    async def run() -> None:
        gone = asyncio.create_task(meeting.do("a", handler, "gone"))
        stays = [asyncio.create_task(meeting.do("a", handler, "stays"))] if stay else []
        asyncio.get_running_loop().call_soon(gone.cancel)  # after both have asked, before they are handled
        await asyncio.gather(*stays)
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
    assert handler.lists == ([["stays"]] if stay else [])


def test_requests_that_meet_are_computed_together_and_answered_as_alone(home: Path) -> None:
    world = World(ads=240, inactive=(3, 8))
    bundle = Bundle(world.build(home))
    asked, metrics = questions(world), Metrics()

    async def meet() -> list[Work]:
        met = pipeline(world, metrics)
        return [work for work, _ in await asyncio.gather(*(met.recommend(bundle, one) for one in asked))]

    together, alone = asyncio.run(meet()), asyncio.run(one_by_one(pipeline(world, Metrics()), bundle, asked))
    sizes = {sample.name: sample.value for one in metrics.together.collect() for sample in one.samples}
    assert sizes["mdrec_together_requests_count"] == 4 + 1  # a search a domain, then one ranking of all
    assert sizes["mdrec_together_requests_sum"] == 2 * len(asked)
    assert_same_answers(alone, together)
