"""Live fold-in on a real Redis: every impression counts once, from however many writers, and nothing else moves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from contracts.errors import WorkFailed
from contracts.keys import user_row, user_row_meta
from contracts.user_row import UserRow
from server.fold import fold
from server.redis_door import connect
from server.settings import Settings
from tests.server.live import Running, eventually, running
from tests.server.worlds import WIDTH, World

KEY = user_row("ns", "u1")
ROW = World().user_row(1)
VECTOR = np.array([0.5, -1.0], dtype=np.float32)


def stored(store: redis.Redis, key: str = KEY) -> UserRow:
    data = store.get(key)
    assert data is not None
    return UserRow.unpack(data)


def run_folds(url: str, writers: int, each: int, **options) -> None:
    async def writer(client, domain: int) -> None:
        for _ in range(each):
            await fold(client, KEY, domain, VECTOR, 20001, **options)

    async def all_of_them() -> None:
        clients = [connect(url, 5000) for _ in range(writers)]
        await asyncio.gather(*(writer(client, at % 2) for at, client in enumerate(clients)))
        for client in clients:
            await client.aclose()

    asyncio.run(all_of_them())


def test_concurrent_folds_lose_nothing(redis_url: str, store: redis.Redis) -> None:
    store.set(KEY, ROW.pack(), ex=1000)
    run_folds(redis_url, writers=8, each=10)
    row = stored(store)
    assert row.counts.tolist() == [40.0, 40.0, 0.0, 0.0]
    assert row.vectors[0] == pytest.approx(VECTOR, abs=1e-2)
    assert row.day == 20001
    np.testing.assert_array_equal(row.codes, ROW.codes)
    assert 0 < store.ttl(KEY) <= 1000


def test_a_fold_is_exact_however_many_came_before_and_leaves_other_domains_alone(redis_url: str, store: redis.Redis) -> None:
    vectors = np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)
    store.set(KEY, replace(ROW, counts=np.array([3000, 7, 5.3, 0], np.float32), vectors=vectors).pack())
    night = stored(store)
    run_folds(redis_url, writers=1, each=30)
    row = stored(store)
    assert row.counts[0] == 3030 and row.live == {0}
    assert row.vectors[0] == pytest.approx((3000 * night.vectors[0] + 30 * VECTOR) / 3030, abs=1e-6)
    assert row.counts[1:].tolist() == night.counts[1:].tolist()
    assert row.vectors[1:].tolist() == night.vectors[1:].tolist()


def test_concurrent_folds_of_a_new_user_start_from_one_stranger(redis_url: str, store: redis.Redis) -> None:
    run_folds(redis_url, writers=6, each=5, stranger=ROW, ttl_ms=60_000)
    assert stored(store).counts.sum() == 30
    assert 0 < store.pttl(KEY) <= 60_000


def test_a_missing_row_stays_missing_without_a_stranger(redis_url: str, store: redis.Redis) -> None:
    run_folds(redis_url, writers=1, each=1)
    assert not store.exists(KEY)


def test_a_row_of_another_width_is_left_alone(redis_url: str, store: redis.Redis) -> None:
    store.set(KEY, replace(ROW, vectors=np.zeros((4, 7), dtype=np.float32)).pack())
    before = store.get(KEY)
    with pytest.raises(ValueError, match="width"):
        run_folds(redis_url, writers=1, each=1)
    assert store.get(KEY) == before


def test_a_row_that_always_changes_is_given_up(redis_url: str, store: redis.Redis) -> None:
    """A client whose every read is stale."""

    class Stale:
        def __init__(self, client) -> None:
            self.client = client

        async def get(self, key: str) -> bytes:
            return replace(ROW, day=1).pack()

        async def eval(self, *arguments):
            return await self.client.eval(*arguments)

    async def attempt() -> None:
        client = connect(redis_url, 5000)
        try:
            await fold(Stale(client), KEY, 0, VECTOR, 1)  # type: ignore[arg-type]
        finally:
            await client.aclose()

    store.set(KEY, ROW.pack())
    with pytest.raises(WorkFailed, match="attempts"):
        asyncio.run(attempt())
    assert stored(store).counts.sum() == 0


@pytest.fixture
def folding(home: Path, settings: Settings):
    World(with_encoder=True).build(home)
    with running(settings) as served:
        yield served


def impression(served: Running, request_id: str, event_id: str, **fields) -> None:
    base = {"type": "impression", "user_id": "u1", "domain": "search", "ad_id": "a2", "position": 0}
    body = {"events": [{"event_id": event_id, "request_id": request_id, **base, **fields}]}
    answer = served.client.post("/v1/feedback", json=body)
    assert answer.status_code == 202, answer.text


def facts_are_there(store: redis.Redis, request_id: str) -> bool:
    return eventually(lambda: store.exists(f"req:{request_id}")) == 1


def test_an_impression_moves_the_users_row_and_the_next_answer(folding: Running, store: redis.Redis) -> None:
    world = World(with_encoder=True)
    key = user_row(world.namespace, "u1")
    store.set(user_row_meta(world.namespace), "{}", ex=500)
    before = folding.recommend("u1", "search", k=1, context={"hour": "20"}, request_id="r1")["ads"][0]["p_click"]
    assert facts_are_there(store, "r1")
    assert folding.client.get("/v1/requests/r1").status_code == 404
    impression(folding, "r1", "e1")
    row = eventually(lambda: store.exists(key) and stored(store, key))
    assert row.counts.tolist() == [0.0, 1.0, 0.0, 0.0]
    hour = 4  # the code of "20"
    expected = np.arange(hour * WIDTH, (hour + 1) * WIDTH) / 8 + 0.25
    assert row.vectors[1] == pytest.approx(expected, abs=1e-3)
    assert 0 < store.ttl(key) <= 500
    after = folding.recommend("u1", "search", k=1, context={"hour": "20"})["ads"][0]["p_click"]
    shift = np.log(after / (1 - after)) - np.log(before / (1 - before))
    assert shift == pytest.approx(expected.sum() / (1 + 4.0), abs=1e-2)


def test_only_known_first_time_impressions_fold(folding: Running, store: redis.Redis) -> None:
    key = user_row(World().namespace, "u1")
    folding.recommend("u1", "search", request_id="r1")
    assert facts_are_there(store, "r1")
    impression(folding, "r1", "e1")
    impression(folding, "r1", "e1")
    impression(folding, "r1", "click", type="click")
    impression(folding, "unknown", "e2")
    impression(folding, "r1", "e3", ad_id="nobody")
    impression(folding, "r1", "e4", user_id="u5")
    impression(folding, "r1", "last", ad_id="a3")
    eventually(lambda: store.exists(key) and stored(store, key).counts[1] == 2)
    assert stored(store, key).counts.sum() == 2
    assert not store.exists(user_row(World().namespace, "u5"))


def test_a_fold_that_fails_is_counted_and_feedback_is_not_harmed(folding: Running, store: redis.Redis) -> None:
    store.set(user_row(World().namespace, "u1"), b"not a row")
    folding.recommend("u1", "search", request_id="r1")
    assert facts_are_there(store, "r1")
    impression(folding, "r1", "e1")
    assert eventually(lambda: folding.metric("mdrec_background_errors_total", task="fold")) == 1
