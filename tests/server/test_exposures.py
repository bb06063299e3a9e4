"""The exposure log: bounded in memory, patient with Redis, emptied on the way out."""

from __future__ import annotations

from pathlib import Path

import redis

from contracts.events import STREAM_FIELD, Exposure, from_stream
from contracts.keys import EVENTS
from deploy.redis_local import LocalRedis
from server.settings import Settings
from tests.server.live import running, stream
from tests.server.worlds import World


def test_a_stopping_worker_writes_what_it_holds(world: World, settings: Settings, store: redis.Redis) -> None:
    with running(settings) as served:
        for number in range(20):
            served.recommend(request_id=f"r{number}")
    assert [one["request_id"] for one in stream(store, "exposure")] == [f"r{number}" for number in range(20)]


def test_without_redis_the_queue_is_bounded_and_drops_are_counted(home: Path, world: World, tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "own-redis").start()
    settings = Settings(home=home, redis_url=server.url, exposure_queue=5, redis_write_timeout_ms=300, shutdown_flush_seconds=20)
    with running(settings) as served:
        server.stop()
        for number in range(8):
            served.recommend(request_id=f"r{number}")
        assert served.metric("mdrec_events_total", type="exposure", outcome="dropped") == 3
        assert len(served.gateway.exposures) == 5
        server.start()
    with redis.Redis.from_url(server.url) as client:
        assert [one["request_id"] for one in stream(client, "exposure")] == [f"r{number}" for number in range(5)]
    server.stop()


def test_a_worker_stops_in_time_without_redis(home: Path, world: World, tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "own-redis").start()
    settings = Settings(home=home, redis_url=server.url, redis_write_timeout_ms=300, shutdown_flush_seconds=0.2)
    with running(settings) as served:
        server.stop()
        served.recommend()
        metrics = served.gateway.metrics
    assert 'mdrec_events_total{domain="search",outcome="dropped",type="exposure"} 1.0' in metrics.text().decode()


def test_an_event_in_the_stream_is_the_answer_that_was_given(world: World, settings: Settings, store: redis.Redis) -> None:
    with running(settings) as served:
        answer = served.recommend(request_id="é☃", context={"hour": "20"}, k=3)
    ((_, fields),) = [one for one in store.xrange(EVENTS) if b'"kind":"exposure"' in one[1][STREAM_FIELD]]
    event = from_stream(fields)
    assert isinstance(event, Exposure)
    assert (event.request_id, event.domain, event.bundle_id) == ("é☃", answer["domain"], answer["bundle_id"])
    assert (event.context, event.degraded) == ({"hour": "20"}, answer["degraded"])
    assert [one.model_dump() for one in event.arms] == answer["arms"]
    shown = [{name: ad[name] for name in ("ad_id", "position", "p_click", "rank_score", "bid")} for ad in answer["ads"]]
    assert [one.model_dump(exclude={"propensity"}) for one in event.ads] == shown and len(shown) == 3
