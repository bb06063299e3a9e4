"""Health over HTTP: the last minutes by the counters, how far the ledger is behind, and what is away or damaged said in words."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
import redis

from abtest.drain import drain
from server.metrics import Metrics
from server.recent import Recent, percentile
from server.settings import Settings
from tests.abtest.world import exposure, log
from tests.server.live import Running, eventually, running
from tests.server.test_admin import call
from tests.server.test_bad_input import problem
from tests.server.test_feedback import event, post
from tests.server.worlds import DOMAINS, World

BUCKETS = [(1.0, 2.0), (2.0, 6.0), (4.0, 10.0), (math.inf, 10.0)]


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, BUCKETS, 1.75),  # the fifth of ten: three quarters into the second bucket's four
        (0.1, BUCKETS, 0.5),
        (0.99, BUCKETS, 2 + 2 * 3.9 / 4),
        (0.99, [(1.0, 0.0), (2.0, 0.0), (math.inf, 5.0)], 2.0),  # above all bounds: the last one
        (0.5, [(1.0, 0.0), (2.0, 0.0), (4.0, 5.0), (math.inf, 5.0)], 3.0),
        (0.5, [(1.0, 0.0), (math.inf, 0.0)], None),
        (0.5, [], None),
    ],
)
def test_a_percentile_is_linear_inside_its_bucket(
    share: float, buckets: list[tuple[float, float]], expected: float | None
) -> None:
    assert percentile(share, buckets) == (expected if expected is None else pytest.approx(expected))


def test_what_grew_is_counted_from_the_snapshot_that_is_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch() -> None:
        metrics = Metrics()
        recent = Recent(metrics)
        clock = iter((0.0, 60.0, 120.0, 150.0, 150.0))
        monkeypatch.setattr("server.recent.monotonic", lambda: next(clock))
        for count in (5, 3, 2):  # a series that is not there at first
            recent._taken.append(await recent._take())
            metrics.shed.labels("queue").inc(count)
        found = await recent.grown(60.0)  # from 60 on
        assert (found.seconds, list(found.of("mdrec_shed_total"))) == (90.0, [({"reason": "queue"}, 5.0, 10.0)])
        found = await recent.grown(600.0)
        assert (found.seconds, list(found.of("mdrec_shed_total"))) == (150.0, [({"reason": "queue"}, 10.0, 10.0)])

    asyncio.run(watch())


def test_domains_tell_their_rate_percentiles_rungs_and_drops(home: Path, settings: Settings) -> None:
    World(inactive=(0,)).build(home)
    with running(settings) as served:
        for _ in range(4):
            served.recommend("u1", "search")
        served.recommend("u1", "search", exclude_ad_ids=["a1"])
        served.client.post("/v1/score", json={"user_id": "u1", "domain": "search", "ad_ids": ["a1"]})
        answer = call(served, "GET", "health/domains?minutes=1").json()
        assert [one["domain"] for one in answer["domains"]] == sorted(DOMAINS)
        found = {one["domain"]: one for one in answer["domains"]}
        search, feed = found["search"], found["feed"]
        assert (search["requests"], search["total"]["count"], feed["requests"]) == (6, 6, 0)
        assert search["requests_per_second"] > 0 and feed["requests_per_second"] == 0
        assert 0 < search["total"]["p50_ms"] <= search["total"]["p95_ms"] <= search["total"]["p99_ms"]
        assert {one["stage"]: one["count"] for one in search["stages"]} == {
            "hydrate": 6, "encode": 6, "retrieve": 5, "filter": 5, "rank": 6, "select": 5,
        }  # fmt: skip
        assert {one["reason"]: one["count"] for one in search["dropped"]} == {"inactive": 5, "excluded": 1}
        assert feed["total"] == {"count": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None} and search["degraded"] == []
        problem(call(served, "GET", "health/domains?minutes=11"), 422)


def test_events_are_counted_and_the_ledger_s_lag_is_that_of_the_oldest(served: Running, store: redis.Redis, home: Path) -> None:
    empty = call(served, "GET", "health/events").json()
    assert empty["stream"] == {"length": 0, "oldest_at": None, "lag_seconds": None}
    assert (empty["ledger"]["last_file"], empty["ledger"]["problem"], empty["counts"]) == (None, None, [])
    log(store, [exposure("r0")])
    (first, _), *_ = store.xrange("events", count=1)
    served.recommend("u1", "feed")
    post(served, event("e1"), event("e2"), event("e1"), event("e3", domain="nowhere"))
    eventually(lambda: store.xlen("events") == 4)
    found = eventually(lambda: _complete(call(served, "GET", "health/events").json(), 4))
    assert found["redis"] == {"up": True, "error": None} and found["exposures_waiting"] == 0
    assert found["stream"]["length"] == 4 and 0 <= found["stream"]["lag_seconds"] < 600
    assert [(one["type"], one["domain"], one["outcome"], one["total"], one["recent"]) for one in found["counts"]] == [
        ("click", "feed", "accepted", 2, 2),
        ("click", "feed", "duplicate", 1, 1),
        ("click", "unknown", "rejected", 1, 1),
        ("exposure", "feed", "accepted", 1, 1),
    ]
    drain(store, home / "events")
    drained = call(served, "GET", "health/events").json()
    assert drained["stream"]["length"] == 0 and drained["ledger"]["last_file"].startswith("day=")
    assert drained["ledger"]["last_written_at"] is not None and first
    (home / "events" / "_drained.json").write_text("{")
    assert "the night cannot go on" in call(served, "GET", "health/events").json()["ledger"]["problem"]


def _complete(found: dict, kinds: int) -> dict | None:  # type: ignore[type-arg]
    """An exposure is counted a moment after it is in the stream."""
    return found if len(found["counts"]) == kinds else None


def test_without_redis_health_is_still_told(world: World, settings: Settings) -> None:
    with running(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as served:
        assert served.recommend("u1", "feed")["degraded"] == ["features"]
        found = call(served, "GET", "health/events").json()
        assert found["stream"] is None and not found["redis"]["up"] and found["redis"]["error"]
        assert found["exposures_waiting"] == 1
        (feed,) = [one for one in call(served, "GET", "health/domains").json()["domains"] if one["domain"] == "feed"]
        assert feed["degraded"] == [{"rung": "features", "count": 1, "share": 1.0}]
