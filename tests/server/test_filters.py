"""Ads that may not be shown: whoever is barred and however many, k good ads come back where there are k."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.ids import IdTable
from indexer.index import Matrix
from server import stages
from server.bundle import AdTable
from server.stages import Work
from tests.indexer.index_world import MAKERS

DIMENSION = 4
NOTHING = np.zeros(0, np.int64)


def work_over(vectors: Matrix, query: Matrix, active: np.ndarray, kind: str) -> tuple[Work, list[int]]:
    """A request at its retrieval, and the numbers of ads that its index will have been asked for."""
    index, asked = MAKERS[kind](vectors), []

    def search(query_BE: Matrix, k: int, eligible_N: np.ndarray | None = None) -> Any:
        asked.append(k)
        return index.search(query_BE, k, eligible_N)

    n = len(vectors)
    none, ids = np.zeros((n, 0)), IdTable([f"a{row}" for row in range(n)])
    ads = AdTable(ids, none.astype(np.int32), none.astype(np.float32), np.ones(n, np.float32), active, np.zeros(0, np.int32))
    tower = SimpleNamespace(run=lambda feeds: query[None])
    domain = SimpleNamespace(name="feed", user_tower=tower, index=SimpleNamespace(search=search), ads=ads)
    return Work(None, domain, "u", {}), asked  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", MAKERS)
def test_the_best_that_may_be_shown_come_back(kind: str, data: st.DataObject) -> None:
    """Small integers, so that scores are exact: those answered are those of the best eligible ads, in one search."""
    n, count = data.draw(st.integers(1, 80)), data.draw(st.sampled_from([1, 3, 20, 100]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors, query = (random.integers(-3, 4, shape).astype(np.float32) for shape in ((n, DIMENSION), DIMENSION))
    active = random.random(n) >= data.draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    excluded = np.unique(random.integers(0, n, data.draw(st.sampled_from([0, 1, 5, 40]))))
    work, asked = work_over(vectors, query, active, kind)
    stages.retrieve(work, count, excluded)
    stages.filter_ads(work, count, stages.Barred(excluded, excluded, NOTHING))
    eligible = np.setdiff1d(np.flatnonzero(active), excluded)
    best = sorted((vectors[eligible] @ query).tolist(), reverse=True)[:count]
    assert work.retrieval_scores.tolist() == best and (vectors[work.rows] @ query).tolist() == best
    assert len(set(work.rows.tolist())) == len(best) and np.isin(work.rows, eligible).all()
    assert len(asked) == 1


def test_few_barred_ads_are_dropped_and_named_many_are_passed_over() -> None:
    vectors, query = np.arange(400, dtype=np.float32)[:, None].repeat(2, axis=1), np.ones(2, np.float32)
    few, many = np.arange(390, 400), np.arange(380, 400)
    for excluded, dropped, asked in ((few, 10, 50), (many, 0, 40)):
        work, counts = work_over(vectors, query, np.ones(400, bool), "exact")
        stages.retrieve(work, 40, excluded)
        stages.filter_ads(work, 40, stages.Barred(excluded, excluded, NOTHING))
        assert work.rows.tolist() == list(range(excluded[0] - 1, excluded[0] - 41, -1))
        assert (len(work.dropped.get("excluded", ([],))[0]), counts) == (dropped, [asked])
