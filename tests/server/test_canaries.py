"""A canary over real HTTP: served to its share beside the stable side, watched, rolled back by itself in its domain alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from abtest.canary_watch import Watcher
from abtest.guardrails import Guardrail
from server.bundle import Bundle
from server.settings import Settings
from tests.server.live import Running, eventually, running, stream
from tests.server.test_admin import call
from tests.server.test_bad_input import problem
from tests.server.worlds import World

BODY: dict[str, Any] = {"domain": "feed", "recipe": "adi+dsfm", "bundle": "b2", "share": 0.5}


@pytest.fixture
def served(home: Path, settings: Settings) -> Iterator[Running]:
    World().build(home)
    World(bundle_id="b2").build(home, alias=False)
    with running(settings) as one:
        yield one


SIDES = ("stable", "canary")


def put(served: Running, key: str = "next", **fields: Any) -> httpx.Response:
    version = call(served, "GET", "canaries").headers["etag"]
    return call(served, "PUT", f"canaries/{key}", {**BODY, **fields}, **{"If-Match": version, "X-Operator": "ada"})


def begin(served: Running, key: str = "next", **fields: Any) -> Bundle:
    """Defined and loaded: the canary's bundle in this worker."""
    assert put(served, key, **fields).status_code == 200
    wanted = fields.get("bundle", BODY["bundle"])
    live = served.gateway.registry
    return eventually(lambda: live.live.pinned.get(wanted) if wanted else live.live.bundles.get(fields["recipe"]))


def state(served: Running, key: str = "next") -> dict[str, Any]:
    return next(one for one in call(served, "GET", "canaries").json()["canaries"] if one["key"] == key)


def ask(served: Running, times: int, domain: str = "feed") -> Counter[tuple[str, str]]:
    """(arm, bundle) of the answers."""
    answers = [served.recommend(f"u{number}", domain) for number in range(times)]
    return Counter((one["arms"][0]["arm"] if one["arms"] else "", one["bundle_id"]) for one in answers)


def test_its_share_of_one_domains_users_gets_the_bundle_and_nobody_else(served: Running, store: redis.Redis) -> None:
    begin(served, share=0.25)
    found = ask(served, 24)
    assert set(found) == {("", "b1"), ("stable", "b1"), ("canary", "b2")}
    assert set(ask(served, 6, "search")) == {("", "b1")}
    exposed = eventually(lambda: len(found := stream(store, "exposure")) == 30 and found)
    arms = Counter(one["arms"][0]["arm"] for one in exposed if one["arms"])
    assert arms == {arm: count for (arm, _), count in found.items() if arm}
    sides = eventually(lambda: (one := state(served)["windows"][1])["canary"]["answers"] == arms["canary"] and one)
    assert sides["stable"]["answers"] == arms["stable"] and sides["canary"]["p99_ms"] > 0
    assert state(served)["users"] == arms["canary"]
    assert served.metric("mdrec_canary_answers_total", canary="next", arm="canary", domain="feed", outcome="ok") == arms["canary"]


def test_widening_moves_nobody_and_its_bundle_stays(served: Running) -> None:
    def arms() -> dict[int, str]:
        answers = {number: served.recommend(f"u{number}", "feed")["arms"] for number in range(24)}
        return {number: one[0]["arm"] for number, one in answers.items() if one}

    begin(served, share=0.1)
    before = arms()
    assert put(served, share=0.4).status_code == 200
    after = arms()
    assert before.items() < after.items()
    smaller = problem(put(served, share=0.2), 422)
    assert "ramping only adds" in smaller["detail"]
    assert state(served)["share"] == 0.4


def rank_fails(bundle: Bundle) -> None:
    def fail(feeds: Any) -> Any:
        raise RuntimeError("broken on purpose")

    bundle.ranker.run = fail  # type: ignore[union-attr, method-assign]


def rank_waits(bundle: Bundle) -> None:
    """By the clock of `slow`: a real one would measure the machine."""
    run = bundle.ranker.run  # type: ignore[union-attr]

    def wait(feeds: Any) -> Any:
        WAITED.append(True)
        return run(feeds)

    bundle.ranker.run = wait  # type: ignore[union-attr, method-assign]


WAITED: list[bool] = []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer takes 5 ms, 9 if its ranker waited."""
    monkeypatch.setattr("server.pipeline.Stopwatch.total", lambda _: {"total": 9.0 if WAITED and WAITED.pop() else 5.0})


def scores_drift(bundle: Bundle) -> None:
    bundle.ranker.run = lambda feeds: np.full(len(feeds["ad_codes"]), 0.001, np.float32)  # type: ignore[union-attr, method-assign]


def all_fails(bundle: Bundle) -> None:
    bundle.domain_vectors = "no vectors"  # type: ignore[assignment]


FAULTS = {
    "feed": (rank_fails, "degraded", "answers from a lower rung"),
    "search": (all_fails, "failed", "requests that failed"),
    "video": (rank_waits, "slower", "times the stable side's p99"),
    "mail": (scores_drift, "drift", "scores have drifted"),
}


def test_each_fault_is_rolled_back_in_its_domain_alone(
    served: Running, home: Path, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for least in ("LEAST_FOR_TAILS", "LEAST_ANSWERS"):
        monkeypatch.setattr(f"abtest.verdict.{least}", 20)
    bundles = {}
    for domain in FAULTS:
        World(bundle_id=f"next-{domain}").build(home, alias=False)
        bundles[domain] = begin(served, domain, domain=domain, bundle=f"next-{domain}")

    def stopped(domain: str) -> bool:
        for number in range(16):
            served.client.post("/v1/recommend", json={"user_id": f"u{number}", "domain": domain})
        return state(served, domain)["status"] == "stopped"

    done: list[str] = []
    for domain, (fault, name, words) in FAULTS.items():
        fault(bundles[domain])
        eventually(lambda domain=domain: stopped(domain))
        done.append(domain)
        going = [one["key"] for one in call(served, "GET", "canaries").json()["canaries"] if one["status"] == "running"]
        assert going == [one for one in FAULTS if one not in done], "the other domains' go on"
        assert set(ask(served, 8, domain)) == {("", "b1")}, "everybody there has what is stable"
        entry = call(served, "GET", "audit").json()[0]
        assert entry["who"] == "canary" and entry["why"].startswith(f"rolled back in {domain}: ") and words in entry["why"]
        place = f"features.{domain}.rules.0."
        assert entry["diff"][place + "status"] == [None, "stopped"]
        assert any(path.startswith(f"{place}canary.outcome.numbers.{name}.") for path in entry["diff"])
        assert all(path.startswith(place) for path in entry["diff"])
        assert served.metric("mdrec_canary_rolled_back", canary=domain, domain=domain) == 1
        outcome = state(served, domain)["outcome"]
        assert outcome["action"] == "rolled back" and name in outcome["numbers"]
        again = {"domain": domain, "bundle": f"next-{domain}"}
        assert "begin under another key" in problem(put(served, domain, **again), 422)["detail"]
    eventually(lambda: not served.gateway.registry.live.pinned)


def test_users_of_a_sound_canary_are_proposed_a_larger_share(served: Running) -> None:
    begin(served, share=0.25, hours=1e-6, users=2)
    eventually(lambda: bool(ask(served, 16)) and state(served)["outcome"])
    found = state(served)
    assert (found["outcome"]["action"], found["outcome"]["share"], found["share"]) == ("proposes", 0.5, 0.25)
    entry = call(served, "GET", "audit").json()[0]
    assert entry["who"] == "canary" and "proposes 50% of the users" in entry["why"]
    assert put(served, share=0.5).status_code == 200
    assert state(served)["share"] == 0.5


def test_what_the_ledger_says_stops_it(served: Running, store: redis.Redis) -> None:
    begin(served)
    Watcher(store).note_business("next", [Guardrail("ctr", 0.05, "breached", None, "ctr is worse by more than the margin")])
    eventually(lambda: state(served)["status"] == "stopped")
    assert "ctr is worse" in call(served, "GET", "audit").json()[0]["why"]


def test_a_canary_whose_bundle_is_refused_falls_to_the_champion_and_is_rolled_back(
    served: Running, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abtest.verdict.LEAST_ANSWERS", 20)
    (home / "bundles" / "b2" / "ranker.onnx").write_bytes(b"cut")
    assert put(served).status_code == 200
    eventually(lambda: "b2" in served.gateway.registry.refused)
    assert set(ask(served, 12)) == {("stable", "b1"), ("canary", "b1")}
    eventually(lambda: bool(ask(served, 16)) and state(served)["status"] == "stopped")


def test_answers_before_the_bundle_is_loaded_do_not_count(served: Running, store: redis.Redis) -> None:
    begin(served)
    registry = served.gateway.registry
    loaded = registry.live
    registry.live = type(loaded)(loaded.bundles, loaded.champion)
    assert registry.loading("b2") and not registry.loading(None)
    found = ask(served, 16)
    assert found["canary", "b1"] > 0, "the champion answers meanwhile"
    registry.live = loaded
    ask(served, 1)
    wanted = found["stable", "b1"] + 1
    counted = eventually(lambda: (now := sum(state(served)["windows"][1][side]["answers"] for side in SIDES)) >= wanted and now)
    assert counted == wanted


def test_its_arm_may_be_released_to_the_whole_domain(served: Running) -> None:
    begin(served)
    version = call(served, "GET", "canaries").headers["etag"]
    assert call(served, "POST", "experiments/next/stop", {"release": "canary"}, **{"If-Match": version}).status_code == 200
    assert set(ask(served, 6)) == {("", "b2")}
    assert set(ask(served, 6, "search")) == {("", "b1")}


def test_a_challenger_recipe_may_be_a_canary(served: Running, home: Path) -> None:
    World(bundle_id="b3", recipe="adi+other").build(home)
    eventually(lambda: "adi+other" in served.gateway.registry.live.bundles)
    assert begin(served, recipe="adi+other", bundle=None).bundle_id == "b3"
    assert set(ask(served, 12)) == {("stable", "b1"), ("canary", "b3")}


def test_bundles_of_canaries_are_not_loaded_longer_than_needed(served: Running) -> None:
    begin(served)
    assert [one["live"] for one in served.client.get("/v1/bundles").json()["bundles"] if one["bundle_id"] == "b2"] == [False]
    assert call(served, "POST", "experiments/next/stop", {}, **{"If-Match": '"1"'}).status_code == 200
    eventually(lambda: not served.gateway.registry.live.pinned)
    eventually(lambda: all(key[0] != "b2" for key in served.gateway.registry._kept))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"domain": "nowhere"}, "domain"),
        ({"recipe": "adi+missing", "bundle": None}, "recipe"),
        ({"bundle": "missing"}, "bundle"),
        ({"recipe": "adi+other"}, "bundle"),
        ({"share": 0}, "share"),
        ({"share": 0.6}, "share"),
        ({"hours": 0}, "hours"),
        ({"technical": {"failed": 5}}, "technical.failed"),
        ({"business": {"clicks": 0.1}}, "business.clicks.[key]"),
        ({"outcome": {"action": "proposes", "reasons": []}}, "outcome"),
        ({"percent": 5}, "percent"),
    ],
)
def test_what_cannot_be_a_canary_is_refused_by_field(unchanged: Running, change: dict[str, Any], named: str) -> None:
    body = {**BODY, "bundle": "b1", **change}
    answer = problem(call(unchanged, "PUT", "canaries/next", body, **{"If-Match": '"0"'}), 422)
    assert named in {one["field"] for one in answer["errors"]}
    assert unchanged.gateway.experiments.version == 0


def test_writes_name_their_version_and_may_be_rehearsed(unchanged: Running) -> None:
    body = {**BODY, "bundle": "b1"}
    problem(call(unchanged, "PUT", "canaries/next", body), 428)
    problem(call(unchanged, "PUT", "canaries/next", body, **{"If-Match": '"7"'}), 412)
    assert call(unchanged, "PUT", "canaries/next?dry_run=true", body).json()["dry_run"] is True
    assert call(unchanged, "GET", "canaries").json() == {"version": 0, "canaries": []}
