"""Sticky experiments: a unit keeps the arm it has met, over gateways and changes, and without Redis the hash decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contracts.keys import sticky_arms, user_row
from server.settings import Settings
from tests.server.live import Running, eventually, running
from tests.server.test_experiments_routing import define, experiment
from tests.server.worlds import World

USER = sticky_arms("id", "u1")


@pytest.fixture
def served(home: Path, settings: Settings, store: redis.Redis) -> Iterator[Running]:
    World().build(home)
    World(bundle_id="b2", recipe="adi+other", bias=1.0).build(home)
    with running(settings) as one:
        define(one, store, experiment("adi+other", bucketVersion=1, weights=[0.0, 1.0]))
        yield one


def arms(answer: dict[str, Any]) -> list[str]:
    return [one["arm"] for one in answer["arms"]]


def test_the_first_arm_is_remembered_and_then_kept(served: Running, store: redis.Redis) -> None:
    assert arms(served.recommend("u1")) == ["challenger"]
    eventually(lambda: store.hgetall(USER) == {b"ranker-test__1": b"challenger"})
    assert 0 < store.ttl(USER) <= served.gateway.settings.sticky_seconds
    define(served, store, experiment("adi+other", bucketVersion=1, weights=[0.0, 1.0], coverage=0.0), version=1)
    kept = served.recommend("u1")
    assert (arms(kept), kept["bundle_id"], kept["degraded"]) == (["challenger"], "b2", [])
    scored = served.client.post("/v1/score", json={"user_id": "u1", "domain": "search", "ad_ids": ["a0"]}).json()
    assert (scored["arms"], scored["bundle_id"]) == (kept["arms"], "b2")
    flag = served.client.post("/ofrep/v1/evaluate/flags/ranker", json={"context": {"targetingKey": "u1", "domain": "feed"}})
    assert flag.json()["variant"] == "challenger"
    assert arms(served.recommend("u2")) == []


def test_a_remembered_arm_overrules_the_hash_with_its_own_bundle_and_row(served: Running, store: redis.Redis) -> None:
    """The row of the hash's bundle was asked for ahead; the answer is computed from that of the remembered arm's."""
    world = World()
    store.hset(USER, "ranker-test__1", "control")
    store.set(user_row(world.namespace, "u1"), world.user_row(1).pack())
    answer = served.recommend("u1", "feed", k=1)
    assert (arms(answer), answer["bundle_id"], answer["degraded"]) == (["control"], "b1", [])
    assert answer["ads"][0]["p_click"] == pytest.approx(world.p_click(1, "feed", 1), abs=1e-4)


def test_the_row_asked_for_ahead_is_used(served: Running, store: redis.Redis) -> None:
    world = World(bundle_id="b2", recipe="adi+other", bias=1.0)
    store.set(user_row(world.namespace, "u1"), world.user_row(1).pack())
    before = store.info("commandstats")["cmdstat_get"]["calls"]
    answer = served.recommend("u1", "feed", k=1)
    assert answer["ads"][0]["p_click"] == pytest.approx(world.p_click(1, "feed", 1), abs=1e-4)
    assert store.info("commandstats")["cmdstat_get"]["calls"] == before + 1


def test_a_memory_that_cannot_be_read_leaves_it_to_the_hash_and_says_so(served: Running, store: redis.Redis) -> None:
    store.set(USER, "no hash")
    answer = served.recommend("u1")
    assert (arms(answer), answer["degraded"]) == (["challenger"], ["sticky"])
    assert served.metric("mdrec_degraded_total", rung="sticky") == 1
    assert store.get(USER) == b"no hash"


def test_an_experiment_that_does_not_ask_reads_and_writes_no_memory(served: Running, store: redis.Redis) -> None:
    define(served, store, experiment("adi+other", weights=[0.0, 1.0]), version=1)
    store.hset(USER, "ranker-test__0", "control")
    before = store.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]
    assert arms(served.recommend("u1")) == ["challenger"]
    assert arms(served.recommend("u2")) == ["challenger"]
    assert store.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"] == before
    assert not store.exists(sticky_arms("id", "u2"))
