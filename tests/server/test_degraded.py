"""Whatever breaks below a request, it is answered from the next rung, which the answer names."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.keys import user_row
from deploy.redis_local import LocalRedis
from server.settings import Settings
from tests.server.live import Running, eventually, running, stream
from tests.server.worlds import World


def gateway_settings(home: Path, server: LocalRedis, **other: Any) -> Settings:
    values = {"redis_timeout_ms": 100, "redis_write_timeout_ms": 300, "alias_poll_seconds": 0.05, **other}
    return Settings(home=home, redis_url=server.url, **values)


def test_a_slow_redis_costs_its_budget_and_no_more(home: Path, world: World, own_redis: LocalRedis) -> None:
    with running(gateway_settings(home, own_redis)) as served:
        healthy = served.recommend()
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            slow = served.recommend(deadline_ms=60_000)
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        assert slow["degraded"] == ["features"]
        assert slow["timings_ms"]["hydrate"] >= 99
        assert [ad["ad_id"] for ad in slow["ads"]] == [ad["ad_id"] for ad in healthy["ads"]]
        assert served.metric("mdrec_degraded_total", rung="features", domain="search") == 1
        eventually(lambda: served.recommend()["degraded"] == [])


def test_the_callers_deadline_shortens_the_wait_for_redis(home: Path, world: World, own_redis: LocalRedis) -> None:
    with running(gateway_settings(home, own_redis, redis_timeout_ms=5000)) as served:
        served.recommend()
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            answer = served.recommend(deadline_ms=200)
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        assert "features" in answer["degraded"]
        assert answer["timings_ms"]["hydrate"] < 1000
        assert answer["ads"]


def test_redis_dies_and_comes_back(home: Path, world: World, own_redis: LocalRedis) -> None:
    with running(gateway_settings(home, own_redis)) as served:
        assert served.recommend(request_id="before")["degraded"] == []
        own_redis.stop()
        answer = served.recommend(request_id="without")
        assert answer["degraded"] == ["features"]
        assert len(answer["ads"]) == 10
        event = {"event_id": "e", "type": "click", "request_id": "r", "user_id": "u", "domain": "feed", "ad_id": "a0"}
        refused = served.client.post("/v1/feedback", json={"events": [event]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert served.client.get("/v1/requests/x").status_code == 503
        assert served.recommend(explain=True, request_id="asked")["degraded"] == ["features", "record"]
        assert served.client.get("/readyz").status_code == 200
        own_redis.start()
        eventually(lambda: served.recommend(request_id="after")["degraded"] == [])
        assert served.client.post("/v1/feedback", json={"events": [event]}).json()["accepted"] == 1
        import redis

        with redis.Redis.from_url(own_redis.url) as client:
            found = eventually(lambda: {"without", "after"} <= {one["request_id"] for one in stream(client, "exposure")})
        assert found


def test_a_gateway_starts_without_redis(home: Path, world: World, own_redis: LocalRedis) -> None:
    own_redis.stop()
    with running(gateway_settings(home, own_redis)) as served:
        assert served.client.get("/readyz").status_code == 200
        assert served.recommend()["degraded"] == ["features"]
        own_redis.start()
        eventually(lambda: served.recommend()["degraded"] == [])


@pytest.mark.parametrize("data", [b"", b"MDU2", b"\x00" * 400, "cut", "other shape", "former format"])
def test_a_row_that_is_not_this_bundles_is_a_strangers(served: Running, world: World, store, data: bytes | str) -> None:
    row = world.user_row(1)
    if data == "cut":
        data = row.pack()[:-4]
    elif data == "other shape":
        data = World(domains=("feed", "search")).user_row(1).pack()
    elif data == "former format":
        data = b"MDU1" + row.pack()[4:]
    store.set(user_row(world.namespace, "u1"), data)
    answer = served.recommend("u1", "search", k=1)
    assert answer["degraded"] == ["features"]
    assert answer["ads"][0]["p_click"] == pytest.approx(world.p_click(1, "search", int(answer["ads"][0]["ad_id"][1:])), abs=1e-5)


def test_a_key_of_another_type_is_a_strangers_row(served: Running, world: World, store) -> None:
    store.hset(user_row(world.namespace, "u1"), "field", "x")
    assert served.recommend("u1")["degraded"] == ["features"]
    assert served.recommend("u2")["degraded"] == []


class Broken:
    """Stands in for a part that fails while it serves."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("broken on purpose")

        return fail


def swap_part(owner: Any, name: str, part: Any) -> None:
    object.__setattr__(owner, name, part)


def test_a_failing_index_gives_the_popular_ads_of_its_domain_only(served: Running) -> None:
    bundle = served.gateway.registry.live.bundles["adi+dsfm"]
    swap_part(bundle.domains["feed"], "index", Broken())
    answer = served.recommend("u0", "feed", k=3, exclude_ad_ids=["a8"])
    assert answer["degraded"] == ["popular"]
    assert [ad["ad_id"] for ad in answer["ads"]] == ["a4", "a0", "a11"]  # ranked: the two wanted ones, then by popularity
    assert all(ad["retrieval_score"] is None for ad in answer["ads"])
    assert served.recommend("u0", "search")["degraded"] == []
    assert served.metric("mdrec_degraded_total", rung="popular") == 1


def test_a_failing_tower_gives_the_popular_ads(served: Running) -> None:
    bundle = served.gateway.registry.live.bundles["adi+dsfm"]
    swap_part(bundle.domains["feed"], "user_tower", Broken())
    assert served.recommend("u0", "feed")["degraded"] == ["popular"]


@pytest.mark.parametrize("answer_of", ["raises", "not finite", "too short"])
def test_a_failing_ranker_gives_retrieval_order(served: Running, answer_of: str) -> None:
    class Ranker:
        def run(self, feeds: dict[str, Any]) -> Any:
            if answer_of == "raises":
                raise RuntimeError("broken on purpose")
            count = len(feeds["ad_codes"])
            return np.full(count, np.nan) if answer_of == "not finite" else np.ones(count - 1)

    served.gateway.registry.live.bundles["adi+dsfm"].ranker = Ranker()  # type: ignore[assignment]
    answer = served.recommend("u0", "feed", k=5)
    assert answer["degraded"] == ["rank"]
    assert [ad["ad_id"] for ad in answer["ads"]] == ["a0", "a4", "a8", "a1", "a2"]
    assert all(ad["p_click"] is None and ad["rank_score"] == ad["retrieval_score"] for ad in answer["ads"])
    scored = served.client.post("/v1/score", json={"user_id": "u0", "domain": "feed", "ad_ids": ["a1", "a4"]}).json()
    assert scored["degraded"] == ["rank"]
    assert [one["rank_score"] for one in scored["scores"]] == [0.0, 1.0]


def test_everything_broken_still_answers_the_popular_list(served: Running) -> None:
    bundle = served.gateway.registry.live.bundles["adi+dsfm"]
    swap_part(bundle.domains["feed"], "index", Broken())
    bundle.ranker = Broken()  # type: ignore[assignment]
    answer = served.recommend("u0", "feed", k=3)
    assert answer["degraded"] == ["popular", "rank"]
    assert [(ad["ad_id"], ad["rank_score"]) for ad in answer["ads"]] == [("a11", 0.0), ("a10", 0.0), ("a9", 0.0)]


def test_a_deadline_that_is_gone_skips_the_ranker(served: Running) -> None:
    answer = served.recommend("u0", "feed", k=3, deadline_ms=0.001)
    assert answer["degraded"][-1] == "deadline"
    assert [ad["ad_id"] for ad in answer["ads"]] == ["a0", "a4", "a8"]
    assert all(ad["p_click"] is None for ad in answer["ads"])


def test_everything_excluded_is_an_empty_answer(served: Running, world: World) -> None:
    answer = served.recommend(exclude_ad_ids=[world.ad_id(row) for row in range(world.ads)])
    assert (answer["ads"], answer["degraded"]) == ([], ["popular"])
