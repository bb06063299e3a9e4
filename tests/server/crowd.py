"""Sixty requests of every domain, and a pipeline that asks nobody but the world: what meets must be answered as alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.bundle import Bundle, DomainModel
from server.device import Device
from server.metrics import Metrics
from server.pipeline import Pipeline, Question
from server.stages import Work
from tests.server.worlds import World


class Rows:
    """Users as the world has them; no ad has changed today."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def get(self, key: str, seconds: float) -> bytes:
        return self._world.user_row(int(key.rpartition(":")[2])).pack()

    def applied(self, bundle: Bundle, domain: DomainModel) -> DomainModel:
        return domain


def questions(world: World) -> list[Question]:
    """Fifteen a domain, some with ads excluded."""
    ids = [world.ad_id(row) for row in range(world.ads)]
    users = ((str(number // 4), world.domains[number % 4], number) for number in range(60))
    return [Question(user, domain, 1 + number % 7, {}, ids[: number % 5 * 40]) for user, domain, number in users]


def pipeline(world: World, metrics: Metrics, device: Device | None = None) -> Pipeline:
    rows = Rows(world)
    return Pipeline(rows, rows, metrics, 2000, 20, device)  # type: ignore[arg-type]


async def one_by_one(asked: Pipeline, bundle: Bundle, those: Sequence[Question]) -> list[Work]:
    return [(await asked.recommend(bundle, one))[0] for one in those]


def assert_same_answers(alone: Sequence[Work], together: Sequence[Work]) -> None:
    for one, other in zip(alone, together, strict=True):
        assert not other.degraded and len(other.rows)
        assert np.array_equal(one.rows, other.rows) and np.array_equal(one.chosen, other.chosen)
        np.testing.assert_allclose(one.retrieval_scores, other.retrieval_scores, rtol=1e-5)
        assert one.p_click is not None and other.p_click is not None
        np.testing.assert_allclose(one.p_click, other.p_click, rtol=1e-5)
