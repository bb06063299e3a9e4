"""A shadow answers in the background: compared, counted, and never felt by anybody, whatever it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from abtest.actions import kill
from abtest.experiments import ExperimentStore
from contracts.keys import user_row
from server.lane import Lane
from server.settings import Settings
from server.shadows import Runner
from tests.server.live import Running, eventually, running, stream
from tests.server.test_admin import call
from tests.server.test_bad_input import problem
from tests.server.test_experiments_routing import experiment
from tests.server.worlds import World

SHADOW = {"domain": "search", "recipe": "adi+dsfm", "bundle": "b2", "share": 1.0}
SETTINGS = {"shadow_permits": 1.0, "shadow_timeout_ms": 20_000.0}


@pytest.fixture
def shadowed(home: Path, settings: Settings) -> Iterator[Running]:
    """b1 serves, b2 is another bundle of its recipe, with the champion's ads and other probabilities."""
    World().build(home)
    World(bundle_id="b2", bias=1.0).build(home, alias=False)
    with running(settings.model_copy(update=SETTINGS)) as served:
        yield served


def write(served: Running, body: dict[str, Any], key: str = "next", **headers: str) -> dict[str, Any]:
    version = call(served, "GET", "shadows").headers["etag"]
    answer = call(served, "PUT", f"shadows/{key}", body, **{"If-Match": version, **headers})
    assert answer.status_code == 200, answer.text
    return answer.json()


def shadow(served: Running, body: dict[str, Any] = SHADOW, key: str = "next") -> Runner:
    """Defined, and loaded in this worker."""
    write(served, body, key)
    return eventually(lambda: (one := served.gateway.trials.shadows._runners.get(key)) and one.bundle and one)


def counts(served: Running, key: str = "next", bundle: str | None = "b2") -> dict[str, Any]:
    shown = next(one for one in call(served, "GET", "shadows").json()["shadows"] if one["key"] == key)
    return next((one for one in shown["bundles"] if one["bundle_id"] == bundle), {})


def test_it_is_compared_and_nobody_sees_it(shadowed: Running, store: redis.Redis) -> None:
    before = [shadowed.recommend(f"u{user}", request_id=f"before{user}") for user in range(8)]
    shadow(shadowed)
    after = [shadowed.recommend(f"u{user}", request_id=f"r{user}") for user in range(8)]
    for one, two in zip(before, after, strict=True):
        assert (one["ads"], one["bundle_id"], two["arms"], two["degraded"]) == (two["ads"], "b1", [], [])
    found = eventually(lambda: (one := counts(shadowed)).get("compared") == 8 and one)
    assert (found["mean_overlap"], found["mean_rank_correlation"]) == (1.0, 1.0)
    assert (found["errors"], found["dropped"], found["degraded"]) == ({}, {}, 0)
    world, other = World(), World(bias=1.0)
    ads = [int(ad["ad_id"][1:]) for ad in after[1]["ads"]]
    expected = np.mean([[other.p_click(u, "search", row) - world.p_click(u, "search", row) for row in ads] for u in range(8)])
    assert found["mean_absolute_p_click_difference"] == pytest.approx(expected, abs=0.02)
    assert found["shadow_p50_ms"] > 0 and found["served_p99_ms"] > 0
    metric = {"recipe": "adi+dsfm", "domain": "search"}
    assert shadowed.metric("mdrec_shadow_requests_total", outcome="compared", **metric) == 8
    assert shadowed.metric("mdrec_shadow_overlap_sum", **metric) == 8
    assert shadowed.metric("mdrec_shadow_duration_seconds_count", **metric) == 8
    exposures = eventually(lambda: len(found := stream(store, "exposure")) == 16 and found)
    assert {(one["bundle_id"], len(one["arms"])) for one in exposures} == {("b1", 0)}
    assert shadowed.metric("mdrec_stage_duration_seconds_count", stage="rank") == 16, "of served answers only"


def test_it_reads_the_rows_of_its_own_bundle(shadowed: Running, store: redis.Redis) -> None:
    other = World(bundle_id="b2", bias=1.0)
    vectors = np.full((4, 2), 1.5)
    store.set(user_row(other.namespace, "u1"), other.user_row(1, counts=[1e9] * 4, vectors=vectors).pack())
    shadow(shadowed)
    answer = shadowed.recommend("u1")
    found = eventually(lambda: (one := counts(shadowed)).get("compared") == 1 and one)
    differences = [other.p_click(1, "search", int(ad["ad_id"][1:]), row_vector=3.0) - ad["p_click"] for ad in answer["ads"]]
    assert found["mean_p_click_difference"] == pytest.approx(np.mean(differences), abs=1e-4)


def test_other_domains_and_requests_outside_the_share_are_left_alone(shadowed: Running) -> None:
    shadow(shadowed, {**SHADOW, "share": 0.3})
    definition = shadowed.gateway.experiments.definitions.shadows["next"]
    taken = [definition.takes("next", f"r{number}") for number in range(40)]
    for number in range(40):
        shadowed.recommend("u1", request_id=f"r{number}")
        shadowed.recommend("u1", "feed", request_id=f"r{number}")
    assert 4 <= sum(taken) <= 25
    eventually(lambda: counts(shadowed).get("compared") == sum(taken))
    assert shadowed.metric("mdrec_shadow_requests_total") == sum(taken)


class Broken:
    """Stands in for a ranker. what: "raises", or waits until released."""

    def __init__(self, what: str) -> None:
        self.what, self.entered, self.release = what, threading.Event(), threading.Event()

    def run(self, feeds: Any) -> Any:
        self.entered.set()
        if self.what == "raises":
            raise RuntimeError("broken on purpose")
        assert self.release.wait(60)
        return np.full(len(feeds["ad_codes"]), 0.5, dtype=np.float32)


def test_one_that_raises_is_counted_and_harms_nobody(shadowed: Running) -> None:
    runner = shadow(shadowed)
    runner.bundle.ranker = Broken("raises")  # type: ignore[union-attr, assignment]
    answers = [shadowed.recommend(f"u{user}") for user in range(4)]
    assert {(one["bundle_id"], len(one["degraded"])) for one in answers} == {("b1", 0)}
    eventually(lambda: counts(shadowed).get("degraded") == 4)
    assert counts(shadowed)["mean_absolute_p_click_difference"] is None, "nothing to compare is not no difference"

    async def fail(*_: Any) -> None:
        raise RuntimeError("broken altogether")

    runner.pipeline.recommend = fail  # type: ignore[method-assign, assignment]
    assert shadowed.recommend()["degraded"] == []
    eventually(lambda: counts(shadowed)["errors"] == {"failed": 1})
    assert shadowed.metric("mdrec_degraded_total") == 0, "rungs of a shadow are not those of answers"


def test_one_that_hangs_delays_nobody_is_dropped_and_takes_up_again(home: Path, settings: Settings) -> None:
    World().build(home)
    World(bundle_id="b2", bias=1.0).build(home, alias=False)
    hasty = settings.model_copy(update={**SETTINGS, "shadow_timeout_ms": 50.0, "shadow_queue": 2})
    with running(hasty) as served:
        runner, ranker = shadow(served), Broken("hangs")
        well, runner.bundle.ranker = runner.bundle.ranker, ranker  # type: ignore[union-attr, assignment]
        for number in range(30):
            assert served.recommend(f"u{number % 8}")["degraded"] == []
        assert ranker.entered.wait(20)
        eventually(lambda: counts(served)["errors"] == {"timeout": 1})
        eventually(lambda: (one := counts(served))["dropped"].get("stuck", 0) + one["dropped"].get("queue_full", 0) == 29)
        runner.bundle.ranker = well  # type: ignore[union-attr]
        ranker.release.set()
        eventually(lambda: not runner.lane.working)
        served.recommend()
        eventually(lambda: counts(served)["compared"] == 1)


def test_what_is_wrong_with_counting_is_not_wrong_with_the_answer(shadowed: Running) -> None:
    shadow(shadowed)

    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    shadowed.gateway.trials.shadows.put = fail  # type: ignore[method-assign]
    assert shadowed.recommend()["degraded"] == []
    assert shadowed.metric("mdrec_background_errors_total", task="trials") == 1


def test_a_gateway_stops_though_a_shadow_hangs(home: Path, settings: Settings) -> None:
    World().build(home)
    with running(settings.model_copy(update=SETTINGS)) as served:
        runner, ranker = shadow(served, {**SHADOW, "bundle": None}), Broken("hangs")
        runner.bundle.ranker = ranker  # type: ignore[union-attr, assignment]
        served.recommend()
        assert ranker.entered.wait(20)
        assert served.recommend()["bundle_id"] == "b1"
    ranker.release.set()


def test_a_full_queue_drops_and_counts(home: Path, settings: Settings) -> None:
    World().build(home)
    resting = settings.model_copy(update={**SETTINGS, "shadow_queue": 3})
    with running(resting) as served:
        shadow(served, {**SHADOW, "bundle": None})
        served.gateway.permits.scarce = lambda share: True  # type: ignore[method-assign]
        for _ in range(5):
            served.recommend()
        eventually(lambda: counts(served, bundle="b1").get("dropped") == {"queue_full": 2})
        assert counts(served, bundle="b1")["compared"] == 0, "no work while permits are scarce"
        served.gateway.permits.scarce = lambda share: False  # type: ignore[method-assign]
        eventually(lambda: counts(served, bundle="b1")["compared"] == 3)


def test_without_a_bundle_of_its_own_it_follows_the_alias(shadowed: Running) -> None:
    first = shadow(shadowed, {**SHADOW, "bundle": None})
    assert first.bundle is not None and first.bundle is not shadowed.gateway.registry.live.bundles["adi+dsfm"], "its own instance"
    shadowed.recommend()
    eventually(lambda: counts(shadowed, bundle="b1").get("compared") == 1)
    call(shadowed, "PUT", "aliases/adi+dsfm", {"bundle_id": "b2"})
    eventually(lambda: first.bundle.bundle_id == "b2" and shadowed.recommend()["bundle_id"] == "b2")  # type: ignore[union-attr]
    eventually(lambda: counts(shadowed, bundle="b2").get("compared", 0) >= 1)


def test_ads_of_today_are_the_shadows_too(shadowed: Running) -> None:
    shadow(shadowed)
    call(shadowed, "PATCH", "domains/search/ads", {"changes": [{"ad_id": f"a{row}", "paused": True} for row in range(8)]})
    assert len(shadowed.recommend(k=10)["ads"]) == 4
    assert eventually(lambda: (one := counts(shadowed)).get("compared") == 1 and one)["mean_overlap"] == 1.0


def test_operators_define_switch_and_remove_it_on_record(shadowed: Running, store: redis.Redis) -> None:
    problem(call(shadowed, "PUT", "shadows/next", SHADOW), 428)
    problem(call(shadowed, "PUT", "shadows/next", SHADOW, **{"If-Match": '"7"'}), 412)
    assert call(shadowed, "PUT", "shadows/next?dry_run=true", SHADOW).json()["diff"]["shadows.next.share"] == [None, 1.0]
    runner = shadow(shadowed)
    written = write(shadowed, {**SHADOW, "active": False, "why": "enough"}, **{"X-Operator": "ada"})
    assert written["diff"] == {"shadows.next.active": [None, False]}
    eventually(lambda: not shadowed.gateway.trials.shadows._runners and not runner.lane._thread.is_alive())
    assert shadowed.gateway.trials.domains == frozenset()
    last = call(shadowed, "GET", "audit").json()[0]
    assert (last["who"], last["why"]) == ("ada", "enough")
    shadow(shadowed, {**SHADOW, "share": 0.5})
    ExperimentStore(store).change(kill, who="test")
    eventually(lambda: not shadowed.gateway.trials.shadows._runners)
    body = experiment("adi+dsfm")
    assert call(shadowed, "PUT", "experiments", body, **{"If-Match": '"4"'}).json()["definitions"]["shadows"].keys() == {"next"}
    problem(call(shadowed, "DELETE", "shadows/next"), 428)
    assert call(shadowed, "DELETE", "shadows/next", **{"If-Match": '"5"'}).json()["version"] == 6
    assert problem(call(shadowed, "DELETE", "shadows/next", **{"If-Match": '"6"'}), 404)["known"] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"domain": "nowhere"}, "domain"),
        ({"recipe": "adi+missing", "bundle": None}, "recipe"),
        ({"bundle": "missing"}, "bundle"),
        ({"recipe": "adi+other"}, "bundle"),
        ({"share": 0}, "share"),
        ({"share": 1.01}, "share"),
        ({"percent": 5}, "percent"),
    ],
)
def test_what_cannot_be_a_shadow_is_refused_by_field(unchanged: Running, change: dict[str, Any], named: str) -> None:
    body = {**SHADOW, "bundle": "b1", **change}
    answer = problem(call(unchanged, "PUT", "shadows/next", body, **{"If-Match": '"0"'}), 422)
    assert named in {one["field"] for one in answer["errors"]}
    assert unchanged.gateway.experiments.version == 0


def test_a_key_keeps_its_domain_and_recipe(shadowed: Running) -> None:
    write(shadowed, SHADOW)
    answer = problem(call(shadowed, "PUT", "shadows/next", {**SHADOW, "domain": "feed"}, **{"If-Match": '"1"'}), 422)
    assert "take another key" in answer["detail"]


def test_a_bundle_that_breaks_leaves_the_shadow_out_and_says_why(shadowed: Running, home: Path) -> None:
    (home / "bundles" / "b2" / "ranker.onnx").write_bytes(b"cut")
    write(shadowed, SHADOW)
    reason = eventually(lambda: call(shadowed, "GET", "shadows").json()["problems"].get("next"))
    assert "ranker.onnx" in reason
    assert shadowed.recommend()["degraded"] == []
    eventually(lambda: counts(shadowed, bundle=None).get("dropped") == {"loading": 1})


def test_a_lane_reports_results_and_errors_and_goes_on() -> None:
    async def play() -> None:
        lane: Lane[int] = Lane("test")

        async def give(value: int) -> int:
            if value < 0:
                raise ValueError("negative")
            return value

        assert await lane.submit(give(3)) == 3
        with pytest.raises(ValueError, match="negative"):
            await lane.submit(give(-1))
        held = threading.Event()

        async def hold() -> int:
            assert held.wait(60)
            return 1

        given_up = lane.submit(hold())
        await asyncio.wait({given_up}, timeout=0.01)
        assert not given_up.done() and lane.working
        given_up.cancel()
        held.set()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await lane.idle.wait()
        assert await lane.submit(give(4)) == 4
        closed: list[bool] = []
        lane.close(lambda: closed.append(True))
        assert closed == [True] and not lane._thread.is_alive()

    asyncio.run(play())
