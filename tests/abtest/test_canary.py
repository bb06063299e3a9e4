"""Canaries and shadows as definitions: of one form, ramped without moving anybody, refused with a reason when damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from abtest.actions import kill, pause, stop
from abtest.assign import Assigner
from abtest.canary import Canary, Technical, bundles_named, canaries, rule_of, running, share_of
from abtest.canary_watch import Watcher
from abtest.check import check, check_change
from abtest.definitions import Definitions, Feature, parse, parse_object
from abtest.experiments import ExperimentStore, differences
from abtest.guardrails import Guardrail
from abtest.ramp import ramp
from abtest.shadow import Shadow, ShadowCounts, compare, summary
from abtest.verdict import Side
from contracts.errors import BadInput
from contracts.keys import canary_counts, canary_users
from server.shadows import Slot

USERS = [f"u{number}" for number in range(1_000)]


def defined(share: float = 0.05, key: str = "next", domain: str = "feed", **plan: Any) -> Definitions:
    rule = rule_of(key, domain, "adi+dsfm", "b2", share, Canary(**plan))
    return Definitions(features={key: Feature(rules=[rule])})


def arms(definitions: Definitions, domain: str = "feed") -> dict[str, str]:
    assigner = Assigner(definitions)
    return {user: met[0].arm for user in USERS if (met := assigner.assign(user, domain))}


def test_a_canary_is_an_experiment_in_its_domain_alone() -> None:
    one = defined(0.2)
    check(one)
    assert parse(one.body()) == one
    found = arms(one)
    for arm in ("stable", "canary"):
        assert sum(met == arm for met in found.values()) / len(USERS) == pytest.approx(0.2, abs=0.05)
    assert arms(one, "search") == {}
    routings = {met: Assigner(one).route(user, "feed") for user, met in found.items()}
    assert (routings["canary"].recipe, routings["canary"].bundle) == ("adi+dsfm", "b2")
    assert (routings["stable"].recipe, routings["stable"].bundle) == (None, None)


@settings(deadline=None, max_examples=12)
@given(st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_ramping_moves_nobody(one: float, two: float) -> None:
    less, more = (defined(share) for share in sorted((one, two)))
    check_change(less, more)
    before, after = arms(less), arms(more)
    assert before.items() <= after.items()
    assert arms(ramp(less, "next", coverage=1.0)).items() >= before.items()
    assert share_of(more.experiment("next")) == pytest.approx(max(one, two), abs=1e-8)


def test_users_of_an_earlier_experiment_are_in_neither_arm() -> None:
    earlier = Feature.model_validate({"rules": [{"key": "x", "variations": [{"recipe": "a"}, {"recipe": "b"}], "coverage": 0.5}]})
    both = Definitions(features={"ranker": earlier, **defined(0.5).features})
    for user in USERS:
        met = Assigner(both).assign(user, "feed")
        assert len(met) == 1
    assert {one.experiment for user in USERS for one in Assigner(both).assign(user, "feed")} == {"x", "next"}


RULE = json.loads(defined().body())["features"]["next"]["rules"][0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": [0.9, 0.1]}, "weights: a canary has none"),
        ({"ranges": [[0, 0.5], [0.5, 1]]}, "ranges: a canary has none"),
        ({"bucketVersion": 1}, "bucketVersion: a canary has none"),
        ({"meta": [{"key": "a"}, {"key": "b"}]}, "meta: a canary's arms are"),
        ({"meta": []}, "meta: a canary's arms are"),
        ({"variations": [{"recipe": "x"}, {"recipe": "y"}]}, "variations.0: "),
        ({"variations": [{"params": {}}, {"params": {}}]}, "variations.1: "),
        ({"variations": [{"params": {}}, {"bundle": "b2"}]}, "variations.1"),
        ({"condition": {}}, "condition: "),
        ({"condition": {"domain": {"$in": ["feed", "mail"]}}}, "condition: "),
        ({"condition": {"domain": "feed", "country": "SE"}}, "condition: "),
        ({"coverage": 0}, "coverage: 0.0 is outside"),
        ({"coverage": None}, "coverage: None is outside"),
        ({"hashVersion": 1}, "hashVersion: 1 is not 2"),
        ({"canary": {"hours": 0}}, "canary.hours"),
        ({"canary": {"technical": {"failed": 2}}}, "canary.technical.failed"),
        ({"canary": {"technical": {"degrade": 0.1}}}, "canary.technical.degrade"),
        ({"canary": {"business": {"clicks": 0.1}}}, "canary.business.clicks"),
        ({"canary": {"minutes": 5}}, "canary.minutes"),
        ({"canary": 7}, "canary: "),
    ],
)
def test_a_damaged_canary_is_refused_by_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as caught:
        check(parse_object({"features": {"next": {"rules": [{**RULE, **change}]}}}))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("shadow", "named"),
    [
        ({"recipe": "r", "share": 0.1}, "shadows.s.domain"),
        ({"domain": "feed", "recipe": "", "share": 0.1}, "shadows.s.recipe"),
        ({"domain": "feed", "recipe": "r", "share": 0}, "shadows.s.share"),
        ({"domain": "feed", "recipe": "r", "share": 1.5}, "shadows.s.share"),
        ({"domain": "feed", "recipe": "r", "share": 0.1, "percent": 3}, "shadows.s.percent"),
        ([], "shadows.s: "),
    ],
)
def test_a_damaged_shadow_is_refused_by_field(shadow: Any, named: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_object({"features": {}, "shadows": {"s": shadow}})
    assert named in str(caught.value)


@pytest.mark.parametrize("arm", [{"recipe": "r", "bundle": 7}, {"recipe": "r", "bundle": ""}, {"params": {}, "bundle": "b"}])
def test_a_bundle_without_its_recipe_is_refused(arm: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="bundle"):
        check(parse_object({"f": {"rules": [{"variations": [{"recipe": "r"}, arm]}]}}))


@pytest.mark.parametrize("share", [0, -1, 0.51])
def test_the_stable_side_needs_as_many_users(share: float) -> None:
    with pytest.raises(BadInput, match="share"):
        defined(share)


def test_definitions_without_features_are_read_back() -> None:
    """Of a gateway that has shadows, or its kill switch on, and no experiment yet."""
    for one in (Definitions(shadows={"s": Shadow(domain="feed", recipe="r", share=1)}), kill(Definitions())):
        assert parse(one.body()) == one
    assert differences(Definitions(), kill(Definitions())) == {"active": [None, False]}


def test_a_bundle_is_held_while_an_arm_may_serve_it() -> None:
    one = defined()
    assert bundles_named(one) == {"b2"}
    assert bundles_named(stop(one, "next")) == set()
    assert bundles_named(stop(one, "next", "canary")) == {"b2"}
    assert bundles_named(stop(one, "next", "stable")) == set()
    assert bundles_named(pause(one, "next")) == {"b2"}
    forced = parse_object(
        {"f": {"rules": [{"force": {"recipe": "r", "bundle": "b3"}}], "defaultValue": {"recipe": "r", "bundle": "b4"}}}
    )
    assert bundles_named(forced) == {"b3", "b4"}


def test_what_was_written_past_the_checks_is_no_canary() -> None:
    body = {"features": {"next": {"rules": [{**RULE, "condition": {}}]}}}
    assert running(parse_object(body)) == {} and running(parse_object({"features": {"next": {"rules": [RULE]}}}))


def test_a_canary_runs_unless_something_stops_it() -> None:
    one = defined()
    assert list(running(one)) == list(canaries(one)) == ["next"]
    off = one.model_copy(update={"features": {"next": one.features["next"].model_copy(update={"active": False})}})
    for stopped in (kill(one), pause(one, "next"), stop(one, "next"), off):
        assert running(stopped) == {} and list(canaries(stopped)) == ["next"]


# The watcher, over a real Redis.


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as one:
        yield one


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(client: redis.Redis, definitions: Definitions) -> None:
    ExperimentStore(client).write(definitions, who="ada", expected_version=0)


def count(client: redis.Redis, clock: Clock, key: str, users: int = 0, **sides: Side) -> None:
    for arm, side in sides.items():
        for name, n in side.fields(arm):
            for minute in (int(clock.now // 60), None):
                client.hincrby(canary_counts(key, minute), name, n)
    if users:
        client.pfadd(canary_users(key), *(f"u{number}" for number in range(users)))


def test_a_breach_is_rolled_back_once_by_canary_with_numbers_and_words(client: redis.Redis, clock: Clock) -> None:
    both = Definitions(features={**defined().features, **defined(key="other", domain="mail").features})
    write(client, both)
    watcher, store = Watcher(client, clock), ExperimentStore(client)
    count(client, clock, "next", stable=Side(200), canary=Side(200, degraded=150))
    count(client, clock, "other", stable=Side(200), canary=Side(200))
    assert {one.key: one.verdict.action for one in watcher.look()} == {"next": "roll back", "other": "go on"}
    now = store.read()
    assert now.version == 2 and list(running(now.definitions)) == ["other"]
    change = store.history(1)[0]
    assert change.who == "canary" and change.why.startswith(
        "rolled back in feed: answers from a lower rung in the last 5 minutes: 75"
    )
    place = "features.next.rules.0."
    assert change.diff[place + "status"] == [None, "stopped"]
    assert change.diff[place + "canary.outcome.numbers.degraded.canary"] == [None, 150]
    assert all(path.startswith(place) for path in change.diff)
    assert [one.key for one in watcher.look()] == ["other"] and store.read().version == 2
    restart = now.definitions.amend("next", status="running")
    with pytest.raises(BadInput, match="does not begin again"):
        store.write(restart, who="ada", expected_version=2)
    with pytest.raises(BadInput, match="does not begin again"):
        store.change(lambda at: stop(at, "next", "canary"), who="ada")


def test_old_faults_do_not_count_as_recent_and_recent_ones_are_not_diluted(client: redis.Redis, clock: Clock) -> None:
    write(client, defined())
    watcher = Watcher(client, clock)
    count(client, clock, "next", stable=Side(100_000), canary=Side(100_000, degraded=500))
    assert watcher.look()[0].verdict.action == "go on"
    clock.now += 600
    (standing,) = watcher.look()
    assert [(one.name, one.canary.answers) for one in standing.windows] == [
        ("in the last 5 minutes", 0), ("since it began", 100_000),
    ]  # fmt: skip
    count(client, clock, "next", stable=Side(100), canary=Side(100, degraded=80))
    assert watcher.look()[0].verdict.action == "roll back"


def test_a_survivor_proposes_once_a_share_and_goes_on(client: redis.Redis, clock: Clock) -> None:
    write(client, defined(hours=2, users=100))
    watcher, store = Watcher(client, clock), ExperimentStore(client)
    count(client, clock, "next", 150, stable=Side(1_000), canary=Side(1_000))
    assert watcher.look()[0].verdict.action == "go on"
    clock.now += 2 * 3600
    for _ in range(3):
        assert watcher.look()[0].verdict.action == "propose"
    now = store.read()
    assert now.version == 2, "said once"
    outcome = now.definitions.experiment("next").canary.outcome  # type: ignore[union-attr]
    assert outcome is not None and (outcome.action, outcome.share) == ("proposes", 0.1)
    assert share_of(running(now.definitions)["next"]) == 0.05, "proposed, not forced"
    change = store.history(1)[0]
    assert change.who == "canary" and "proposes widening in feed: survived 2.0 hours" in change.why
    store.change(lambda at: ramp(at, "next", coverage=0.2), who="ada")
    assert watcher.look()[0].verdict.action == "go on", "its time begins anew at each share"
    clock.now += 2 * 3600
    watcher.look()
    outcome = store.read().definitions.experiment("next").canary.outcome  # type: ignore[union-attr]
    assert outcome is not None and outcome.share == 0.25


def test_what_the_ledger_says_is_acted_upon(client: redis.Redis, clock: Clock) -> None:
    write(client, defined())
    watcher = Watcher(client, clock)
    watcher.note_business("next", [Guardrail("ctr", 0.05, "undecided", 0.3, "ctr may be worse")])
    assert watcher.look()[0].business[0].reason == "ctr may be worse"
    watcher.note_business("next", [Guardrail("ctr", 0.05, "breached", None, "ctr is worse: -20%")])
    assert watcher.look()[0].verdict.action == "roll back"
    assert ExperimentStore(client).history(1)[0].why == "rolled back in feed: ctr is worse: -20%"


def test_one_holds_the_lease_and_another_takes_it_over(client: redis.Redis) -> None:
    watcher = Watcher(client)
    assert watcher.holds_lease("one", 30) and watcher.holds_lease("one", 30) and not watcher.holds_lease("two", 30)
    client.delete("canary:watcher")  # it ran out
    assert watcher.holds_lease("two", 30) and not watcher.holds_lease("one", 30)


# Shadows' comparison.


def slate(*ads: str, p: float | None = 0.1) -> list[Slot]:
    return [Slot(one, p) for one in ads]


def test_slates_are_compared() -> None:
    same = compare(slate(*"abc"), slate(*"abc", p=0.3))
    assert (same.overlap, same.rank_correlation) == (1.0, 1.0) and same.differences == pytest.approx((0.2,) * 3)
    assert compare(slate(*"abc"), slate(*"cba")).rank_correlation == -1.0
    assert compare(slate(*"abcd"), slate(*"abdc")).rank_correlation == pytest.approx(4 / 6)
    half = compare(slate(*"abcd"), slate(*"xbya"))
    assert (half.overlap, half.rank_correlation) == (0.5, -1.0)
    assert compare(slate(*"ab"), slate(*"xy")) == compare(slate(*"xy"), slate(*"ab"))
    assert compare(slate(*"ab"), slate(*"abxy")).overlap == 0.5
    nothing = compare([], [])
    assert (nothing.overlap, nothing.rank_correlation, nothing.differences) == (None, None, ())
    assert compare(slate("a"), slate("a", p=None)).differences == ()


@settings(deadline=None)
@given(st.permutations(list(range(9))))
def test_the_correlation_is_kendalls(order: list[int]) -> None:
    """Pair by pair, as it is defined."""
    found = compare(slate(*map(str, range(9))), slate(*map(str, order)))
    signs = [1 if order.index(one) < order.index(two) else -1 for one, two in combinations(range(9), 2)]
    assert found.rank_correlation == pytest.approx(sum(signs) / len(signs))


def test_a_summary_is_of_all_workers_and_a_mean_of_nothing_is_none() -> None:
    one, two = ShadowCounts(), ShadowCounts()
    one.compared(compare(slate(*"ab"), slate(*"ab", p=0.3)), 4.0, 2.0, False)
    two.compared(compare(slate(*"ab"), slate(*"ac", p=0.0)), 40.0, 2.0, True)
    two.other("timeout")
    two.other("queue_full")
    fields = {name: one.fields[name] + two.fields[name] for name in {*one.fields, *two.fields}}
    found = summary(fields)
    assert (found["compared"], found["degraded"], found["errors"], found["dropped"]) == (2, 1, {"timeout": 1}, {"queue_full": 1})
    assert found["mean_overlap"] == 0.75 and found["mean_rank_correlation"] == 1.0
    assert found["mean_p_click_difference"] == pytest.approx((0.2 + 0.2 - 0.1) / 3)
    assert found["mean_absolute_p_click_difference"] == pytest.approx(0.5 / 3)
    assert found["shadow_p99_ms"] == pytest.approx(40, rel=0.1) and found["served_p50_ms"] == pytest.approx(2, rel=0.1)
    assert summary({})["mean_overlap"] is None and summary({})["shadow_p50_ms"] is None


def test_a_larger_share_takes_the_same_requests_and_more() -> None:
    small, large = (Shadow(domain="feed", recipe="r", share=share) for share in (0.1, 0.3))
    requests = [f"r{number}" for number in range(3_000)]
    taken = {one for one in requests if small.takes("s", one)}
    assert taken <= {one for one in requests if large.takes("s", one)}
    assert len(taken) / len(requests) == pytest.approx(0.1, abs=0.02)
    assert all(Shadow(domain="feed", recipe="r", share=1).takes("s", one) for one in requests)
    assert taken != {one for one in requests if small.takes("other", one)}


def test_technical_guardrails_may_be_switched_off_one_by_one() -> None:
    assert Technical(drift=None).drift is None and Technical(drift=None).failed is not None
