"""Assignment: the same arm for the same user, switches, several experiments, and ramps that move nobody."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abtest.assign import Assigner, Assignment
from abtest.buckets import bucket, fnv1a
from abtest.check import check, check_change
from abtest.definitions import Definitions, parse, parse_object
from abtest.ramp import grown_ranges, moved_share, ramp
from contracts.errors import BadInput

USERS = [f"u{number}" for number in range(400)]


def ranker(**fields: Any) -> Definitions:
    rule = {
        "key": "ranker-test",
        "hashVersion": 2,
        "variations": [{"recipe": "adi+shared_dnn"}, {"recipe": "adi+dsfm", "params": {"k": 5}}],
        "meta": [{"key": "control"}, {"key": "challenger"}],
        **fields,
    }
    return parse_object({"ranker": {"rules": [rule]}})


def arms(definitions: Definitions, domain: str = "feed") -> dict[str, str]:
    """user -> arm, for those in the experiment."""
    assigner = Assigner(definitions)
    return {user: one.arm for user in USERS for one in assigner.assign(user, domain)}


def test_an_assignment_names_experiment_arm_recipe_and_params() -> None:
    user_in = {arm: user for user, arm in arms(ranker()).items()}
    assigner = Assigner(ranker())
    assert assigner.assign(user_in["challenger"], "feed") == [Assignment("ranker-test", "challenger", "adi+dsfm", {"k": 5})]
    assert assigner.assign(user_in["control"], "feed") == [Assignment("ranker-test", "control", "adi+shared_dnn", {})]


def test_the_same_user_has_the_same_arm_in_every_domain_and_process() -> None:
    assert arms(ranker(), "feed") == arms(parse_object(ranker().model_dump(exclude_unset=True)), "search")
    assert Counter(arms(ranker()).values())["control"] == pytest.approx(len(USERS) / 2, abs=50)


@pytest.mark.parametrize("off", [{"active": False}, {"status": "stopped"}, {"status": "draft"}, {"coverage": 0}])
def test_a_switched_off_experiment_assigns_nobody(off: dict[str, Any]) -> None:
    assert arms(ranker(**off)) == {}


def test_switching_a_feature_off_and_on_brings_back_the_same_arms() -> None:
    running = ranker()
    feature = running.features["ranker"]
    off = Definitions(features={"ranker": feature.model_copy(update={"active": False})})
    assert arms(off) == {}
    assert arms(off.model_copy(update={"features": {"ranker": feature}})) == arms(running)


def test_the_kill_switch_gives_everybody_the_champion_and_back_the_same_arms() -> None:
    running = Definitions(
        features={**ranker().features, "all": parse_object({"all": {"defaultValue": {"recipe": "r"}}}).features["all"]}
    )
    killed = running.model_copy(update={"active": False})
    assert {Assigner(killed).route(user, "feed").recipe for user in USERS} == {None}
    assert arms(killed) == {}
    assert arms(parse(killed.body())) == {}  # the switch is stored
    assert arms(killed.model_copy(update={"active": True})) == arms(running) != {}


def test_a_stopped_experiment_serves_the_released_arm_to_its_target_and_exposes_nobody() -> None:
    stopped = ranker(status="stopped", released="challenger", coverage=0.1, condition={"domain": "feed"})
    check(stopped)
    routings = [Assigner(stopped).route(user, "feed") for user in USERS]
    assert all((one.recipe, one.params, one.arms) == ("adi+dsfm", {"k": 5}, []) for one in routings)
    assert Assigner(stopped).route("u1", "search").recipe is None
    for wrong in ({"status": "running"}, {"released": "nobody"}):
        with pytest.raises(BadInput, match="released"):
            check(stopped.amend("ranker-test", **wrong))


def holdout(arms: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "key": "holdout",
        "variations": arms,
        "weights": [0.2, 0.8],
        "meta": [{"key": "held"}, {"key": "open", "passthrough": True}],
    }


def test_a_holdout_keeps_its_units_out_of_the_experiments_behind_it_and_both_sides_are_met() -> None:
    definitions = ranker()
    rule = parse_object({"f": {"rules": [holdout([{"params": {}}, {"params": {}}])]}}).features["f"].rules[0]
    feature = definitions.features["ranker"]
    guarded = Definitions(features={"ranker": feature.model_copy(update={"rules": [rule, *feature.rules]})})
    met = {user: [(one.experiment, one.arm) for one in Assigner(guarded).assign(user, "feed")] for user in USERS}
    assert Counter(found[0][1] for found in met.values())["held"] == pytest.approx(len(USERS) / 5, abs=30)
    assert {found[0][0] for found in met.values()} == {"holdout"}
    for user, found in met.items():
        behind = [("ranker-test", arms(definitions)[user])] if found[0] == ("holdout", "open") else []
        assert found[1:] == behind


def test_one_holdout_may_guard_several_features_as_their_prerequisite() -> None:
    held = {**holdout([{"params": {"held": True}}, {"params": {"held": False}}]), "meta": [{"key": "held"}, {"key": "open"}]}
    gate = [{"id": "holdout", "condition": {"value.params.held": False}}]
    guarded = {
        name: {"rules": [{"key": name, "variations": [{"params": {name: 0}}, {"params": {name: 1}}], "parentConditions": gate}]}
        for name in ("a", "b")
    }
    assigner = Assigner(parse_object({"holdout": {"rules": [held]}, **guarded}))
    for user in USERS[:100]:
        met = {one.experiment: one.arm for one in assigner.assign(user, "feed")}
        assert set(met) == ({"holdout"} if met["holdout"] == "held" else {"holdout", "a", "b"})


def test_a_recipe_is_left_to_the_first_experiment_also_by_its_arms_without_one() -> None:
    """Else the second experiment would meet the first one's control alone."""
    first = {"key": "first", "seed": "1", "variations": [{"params": {}}, {"recipe": "a"}]}
    second = {"key": "second", "seed": "2", "variations": [{"recipe": "c"}, {"recipe": "d"}]}
    assigner = Assigner(parse_object({one["key"]: {"rules": [one]} for one in (first, second)}))
    assert {tuple(one.experiment for one in assigner.assign(user, "feed")) for user in USERS} == {("first",)}


def test_conditions_see_attributes_of_the_user() -> None:
    definitions = ranker(condition={"country": {"$in": ["de", "fr"]}, "age": {"$gte": 18}})
    assigner = Assigner(definitions)
    assert assigner.assign("u1", "feed", {"country": "fr", "age": 40}) == Assigner(ranker()).assign("u1", "feed")
    assert assigner.assign("u1", "feed", {"country": "fr", "age": 4}) == assigner.assign("u1", "feed") == []


def test_a_sticky_experiment_remembers_what_shares_and_layer_no_longer_give() -> None:
    before, unit = ranker(bucketVersion=1), ("id", "u1")
    routing = Assigner(before).route("u1", "feed", memory={})
    (kept,) = routing.kept
    assert (kept.unit, kept.name, kept.arm) == (unit, "ranker-test__1", routing.arms[0].arm)
    memory = {unit: {kept.name: kept.arm}}
    after = Assigner(before.amend("ranker-test", coverage=0.0, namespace=("layer", 0, 0)))
    assert after.remembers({"id": "u1"}) == [unit]
    again = after.route("u1", "feed", memory=memory)
    assert (again.arms, again.kept) == (routing.arms, [])
    assert after.route("u1", "feed", memory={}).arms == after.route("u1", "feed").arms == []
    for amended in ({"bucketVersion": 2}, {"minBucketVersion": 2, "bucketVersion": 2}, {"disableStickyBucketing": True}):
        assert Assigner(after.definitions.amend("ranker-test", **amended)).route("u1", "feed", memory=memory).arms == []
    plain = Assigner(ranker(coverage=0.0))
    assert (plain.remembers({"id": "u1"}), plain.route("u1", "feed", memory=memory).arms) == ([], [])


def test_conditions_see_the_domain_and_cannot_be_given_another_user() -> None:
    definitions = ranker(condition={"domain": {"$in": ["feed"]}})
    assert arms(definitions, "search") == {}
    assigner = Assigner(definitions)
    assert assigner.assign("u1", "feed", {"id": "u2", "domain": "search"}) == assigner.assign("u1", "feed")


def test_a_user_is_in_one_experiment_of_a_namespace_at_most() -> None:
    rules = [
        {"key": key, "variations": [{"params": {key: 0}}, {"params": {key: 1}}], "namespace": ["layer", low, high]}
        for key, low, high in (("a", 0, 0.5), ("b", 0.5, 1))
    ]
    definitions = parse_object({rule["key"]: {"rules": [rule]} for rule in rules})
    met = [[one.experiment for one in Assigner(definitions).assign(user, "feed")] for user in USERS]
    assert all(len(experiments) == 1 for experiments in met)
    assert {experiments[0] for experiments in met} == {"a", "b"}


def test_only_one_feature_chooses_the_recipe_and_params_add_up() -> None:
    def two(name: str, *variations: dict[str, Any]) -> dict[str, Any]:
        return {"rules": [{"key": name, "variations": list(variations), "seed": name}]}

    definitions = parse_object(
        {
            "first": two("first", {"recipe": "a"}, {"recipe": "b"}),
            "second": two("second", {"recipe": "c"}, {"recipe": "d"}),
            "third": two("third", {"params": {"x": 1}}, {"params": {"x": 2}}),
        }
    )
    for user in USERS[:50]:
        routing = Assigner(definitions).route(user, "feed")
        assert [one.experiment for one in routing.arms] == ["first", "third"]
        assert routing.recipe in ("a", "b") and routing.params["x"] in (1, 2)


def test_a_forced_recipe_is_served_without_an_arm_and_a_default_gives_way_to_an_experiment() -> None:
    rule = {"force": {"recipe": "new"}, "condition": {"id": "u1"}}
    forced = parse_object({"f": {"defaultValue": {"recipe": "old"}, "rules": [rule]}})
    assert (Assigner(forced).route("u1", "feed").recipe, Assigner(forced).assign("u1", "feed")) == ("new", [])
    assert Assigner(forced).route("u2", "feed").recipe == "old"
    both = Definitions(features={**forced.features, **ranker().features})
    assert Assigner(both).route("u2", "feed").recipe in ("adi+shared_dnn", "adi+dsfm")


def test_a_roll_out_takes_in_as_many_buckets_as_its_coverage_says() -> None:
    edge = next(f"u{number}" for number in range(20_000) if bucket("f", f"u{number}", 1) == 0.5)
    rolled = {
        coverage: parse_object({"f": {"rules": [{"force": {"recipe": "new"}, "coverage": coverage}]}})
        for coverage in (0.5, 0.501)
    }
    assert [Assigner(one).route(edge, "feed").recipe for one in rolled.values()] == [None, "new"]


def test_ids_hash_by_utf_16_units_as_in_a_browser() -> None:
    """A character beyond the basic plane is two units."""
    assert fnv1a("\U0001f600") == fnv1a("\ude00", fnv1a("\ud83d"))
    assert fnv1a("é") == (0x811C9DC5 ^ 0xE9) * 0x01000193 & 0xFFFFFFFF


def test_flags_that_are_not_arms_are_left_to_others() -> None:
    assert Assigner(parse_object({"banner": {"defaultValue": 3}})).route("u1", "feed").recipe is None


weights_of = st.integers(2, 4).flatmap(
    lambda arms: st.lists(st.floats(0.05, 1), min_size=arms, max_size=arms).map(lambda raw: [one / sum(raw) for one in raw])
)


def many(weights: list[float], coverage: float) -> Definitions:
    variations = [{"recipe": f"r{index}"} for index in range(len(weights))]
    return ranker(variations=variations, meta=[], weights=weights, coverage=coverage)


@settings(deadline=None, max_examples=50)
@given(weights_of, st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_raising_coverage_keeps_every_unit_in_its_arm(weights: list[float], coverages: list[float]) -> None:
    before = many(weights, coverages[0])
    after = ramp(before, "ranker-test", coverage=coverages[1])
    assert arms(before).items() <= arms(after).items()
    assert moved_share(before.experiment("ranker-test"), after.experiment("ranker-test")) == 0


@settings(deadline=None, max_examples=50)
@given(weights_of, st.floats(0, 1), st.data())
def test_ramping_shares_keeps_every_unit_in_its_arm(weights: list[float], coverage: float, data: st.DataObject) -> None:
    before = many(weights, coverage)
    shares = [weight * data.draw(st.floats(coverage, 1)) for weight in weights]
    after = ramp(before, "ranker-test", shares=shares)
    rule = after.experiment("ranker-test")
    assert arms(before).items() <= arms(after).items()
    assert moved_share(before.experiment("ranker-test"), rule) == 0
    assert [end - start for start, end in rule.spans()] == pytest.approx(shares, abs=1e-8)


def test_a_small_challenger_can_grow_to_half_while_the_control_starts_below_half() -> None:
    before = many([0.9, 0.1], 0.2)
    after = ramp(before, "ranker-test", shares=[0.5, 0.5])
    assert grown_ranges([(0, 0.18), (0.9, 0.92)], [0.5, 0.5]) == [(0.0, 0.5), (0.5, 1.0)]
    assert arms(before).items() <= arms(after).items()
    assert len(arms(after)) == len(USERS)
    with pytest.raises(BadInput, match="below its present"):
        grown_ranges([(0, 0.5), (0.5, 1)], [0.4, 0.5])
    assert grown_ranges([(0, 0.1), (0.3, 0.4)], [0.1 + 0.2, 0.1])[0] == (0, 0.3)  # rounding takes no unit of the next arm
    with pytest.raises(BadInput, match="does not fit"):
        ramp(many([0.9, 0.1], 1.0), "ranker-test", shares=[0.9, 0.5])


@pytest.mark.parametrize(
    "change",
    [{"weights": [0.5, 0.5]}, {"seed": "other"}, {"hashVersion": 1}, {"meta": [{"key": "challenger"}, {"key": "control"}]}],
)
def test_a_change_that_moves_units_between_arms_is_refused(change: dict[str, Any]) -> None:
    before = ranker(weights=[0.9, 0.1])
    with pytest.raises(BadInput, match="would change arms"):
        check_change(before, before.amend("ranker-test", **change))
    draft = before.amend("ranker-test", status="draft")
    check_change(draft, draft.amend("ranker-test", **change))
