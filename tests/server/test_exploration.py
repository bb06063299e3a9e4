"""An arm that explores draws its slates, and the ledger can say with what chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from abtest.drain import drain
from abtest.experiments import ExperimentStore, parse_object
from abtest.explore import Explore
from abtest.explored import explored
from contracts.events import STREAM_FIELD
from contracts.keys import EVENTS
from server.settings import Settings
from tests.server.live import Running, eventually, running, stream
from tests.server.worlds import World

EXPLORE = {"temperature": 0.8, "among": 6}


def define(served: Running, store: redis.Redis, explore: Any) -> None:
    arms = [{"params": {}}, {"params": {"explore": explore}}]
    meta = [{"key": "control"}, {"key": "explorer"}]
    rule = {"key": "explore-test", "variations": arms, "meta": meta, "weights": [0.5, 0.5], "hashVersion": 2}
    ExperimentStore(store).write(parse_object({"explore": {"rules": [rule]}}), who="test", expected_version=0)
    eventually(lambda: served.gateway.experiments.version == 1)


def arm(answer: dict[str, Any]) -> str:
    return str(answer["arms"][0]["arm"])


def shown(answer: dict[str, Any]) -> list[str]:
    return [ad["ad_id"] for ad in answer["ads"]]


def test_an_explorers_slates_are_drawn_and_their_propensities_reach_the_ledger(
    home: Path, settings: Settings, store: redis.Redis, tmp_path: Path
) -> None:
    world = World(bid_step=0.25)
    world.build(home)
    with running(settings) as served:
        before = served.recommend("u0", k=3, request_id="r0")
        define(served, store, EXPLORE)
        answers = {f"r{n}": served.recommend(f"u{n % 8}", k=3, request_id=f"r{n}", exclude_ad_ids=["a5"]) for n in range(1, 60)}
        repeated = served.recommend("u1", k=3, request_id="r1", exclude_ad_ids=["a5"])
        named = served.recommend("u9", k=3, explain=True)
        events = eventually(lambda: len(found := stream(store, "exposure")) == 62 and found)
        record = served.client.get(f"/v1/requests/{named['request_id']}").json()

    exposures = {one["request_id"]: one for one in events}
    assert shown(repeated) == shown(answers["r1"])
    explorers = [one for one in answers.values() if arm(one) == "explorer"]
    controls = [one for one in answers.values() if arm(one) == "control"]
    assert explorers and controls
    assert len({tuple(shown(one)) for one in explorers}) > 10
    for one in controls:
        scores = [ad["rank_score"] for ad in one["ads"]]
        assert scores == sorted(scores, reverse=True)
    for one in [before, *controls]:
        event = exposures[one["request_id"]]
        assert "excluded" not in event and all("propensity" not in ad for ad in event["ads"])
    candidates = [row for row in range(world.ads) if row != 5]
    for one in explorers:
        event, user = exposures[one["request_id"]], int(one["request_id"][1:]) % 8
        scores = [world.p_click(user, "search", row) * world.bid(row) for row in candidates]
        slate = [candidates.index(int(ad["ad_id"][1:])) for ad in one["ads"]]
        chances = Explore(**EXPLORE).chances(scores, slate)
        assert [ad["propensity"] for ad in event["ads"]] == pytest.approx(chances[range(3), slate], rel=1e-5)
        assert event["excluded"] == ["a5"] and one["degraded"] == []
    if arm(named) == "explorer":
        assert {one["reason"] for one in record["candidates"] if one["position"] is None} == {"not drawn among the 3"}

    drain(store, tmp_path / "events")
    rows = explored(tmp_path / "events").to_dicts()
    assert {one["request_id"] for one in rows} == {one["request_id"] for one in [*explorers, named] if arm(one) == "explorer"}
    for one in rows:
        ads = exposures[one["request_id"]]["ads"]
        assert (one["ad_id"], one["propensity"]) == ([ad["ad_id"] for ad in ads], [ad["propensity"] for ad in ads])


def test_what_nothing_ranked_is_not_drawn_and_says_so(home: Path, settings: Settings, store: redis.Redis) -> None:
    World(with_ranker=False).build(home)
    with running(settings) as served:
        define(served, store, EXPLORE)
        answers = [served.recommend(f"u{n}", k=3, request_id=f"r{n}") for n in range(8)]
        count = sum(arm(one) == "explorer" for one in answers)
        assert 0 < count < 8
        assert served.metric("mdrec_degraded_total", rung="explore") == count
        events = eventually(lambda: len(found := stream(store, "exposure")) == 8 and found)
    for one in answers:
        assert one["degraded"] == (["explore"] if arm(one) == "explorer" else [])
    assert not any("propensity" in ad for one in events for ad in one["ads"])


def test_exploration_written_past_the_store_is_none(home: Path, settings: Settings, store: redis.Redis) -> None:
    World().build(home)
    with running(settings) as served:
        define(served, store, EXPLORE)
        body = store.hget("exp:definitions", "body")
        assert isinstance(body, bytes)
        store.hset("exp:definitions", mapping={"version": 2, "body": body.replace(b"0.8", b'"0.8"')})
        eventually(lambda: served.gateway.experiments.version == 2)
        answers = [served.recommend(f"u{n}", k=3) for n in range(8)]
    for one in answers:
        assert one["degraded"] == (["explore"] if arm(one) == "explorer" else [])
    assert store.xlen(EVENTS) and b"propensity" not in b"".join(one[1][STREAM_FIELD] for one in store.xrange(EVENTS))
