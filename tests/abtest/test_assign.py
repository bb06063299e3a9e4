"""Assignment: the same arm for the same user, switches, several experiments, and ramps that move nobody."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.assign import Assigner, Assignment
from abtest.check import check_change
from abtest.definitions import Definitions, parse_object
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


def test_flags_that_are_not_arms_are_left_to_others() -> None:
    assert Assigner(parse_object({"banner": {"defaultValue": 3}})).route("u1", "feed").recipe is None


weights_of = st.integers(2, 4).flatmap(
    lambda arms: st.lists(st.floats(0.05, 1), min_size=arms, max_size=arms).map(lambda raw: [one / sum(raw) for one in raw])
)


def many(weights: list[float], coverage: float) -> Definitions:
    variations = [{"recipe": f"r{index}"} for index in range(len(weights))]
    return ranker(variations=variations, meta=[], weights=weights, coverage=coverage)


@given(weights_of, st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_raising_coverage_keeps_every_unit_in_its_arm(weights: list[float], coverages: list[float]) -> None:
    before = many(weights, coverages[0])
    after = ramp(before, "ranker-test", coverage=coverages[1])
    assert arms(before).items() <= arms(after).items()
    assert moved_share(before.experiment("ranker-test"), after.experiment("ranker-test")) == 0


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
