"""Arms that interleave: what may be written, who is routed to them, and what they may not become."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import redis

from abtest import actions
from abtest.assign import Assigner, Interleaving
from abtest.check import check
from abtest.definitions import Definitions, interleaved, parse_object, recipe_shown
from abtest.experiments import ExperimentStore
from abtest.promotion import Promoter
from contracts.errors import BadInput

PAIR = {"interleave": ["adi+dsfm", "adi+shared_dnn"]}


def mix(value: dict[str, Any], **fields: Any) -> Definitions:
    rule = {"key": "mix", "variations": [{"recipe": "adi+dsfm"}, value], "meta": [{"key": "control"}, {"key": "mixed"}], **fields}
    return parse_object({"ranker": {"rules": [rule]}})


def test_a_request_of_the_arm_runs_both_recipes_and_its_params() -> None:
    definitions = mix({**PAIR, "params": {"retrieve_k": 7}}, weights=[0.0, 1.0])
    check(definitions)
    found = Assigner(definitions).route("u1", "feed")
    assert found.interleaving == Interleaving("mix", "mixed", ("adi+dsfm", "adi+shared_dnn"))
    assert (found.recipe, found.params) == ("adi+dsfm", {"retrieve_k": 7})
    assert [(one.arm, one.recipe) for one in found.arms] == [("mixed", None)]
    control = Assigner(mix(PAIR, weights=[1.0, 0.0])).route("u1", "feed")
    assert (control.interleaving, control.recipe) == (None, "adi+dsfm")


def test_an_interleaving_chooses_recipes_so_that_no_later_feature_does() -> None:
    later = {"key": "later", "variations": [{"recipe": "x"}, {"recipe": "y"}]}
    both = parse_object({"ranker": mix(PAIR).features["ranker"].model_dump(exclude_unset=True), "other": {"rules": [later]}})
    assigner = Assigner(both)
    assert all([one.experiment for one in assigner.assign(f"u{number}", "feed")] == ["mix"] for number in range(40))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"interleave": ["a", "a"]}, "variations.1.interleave: 'a' against itself"),
        ({"interleave": ["a"]}, "is not two recipes"),
        ({"interleave": ["a", "b", "c"]}, "is not two recipes"),
        ({"interleave": ["a", 1]}, "is not two recipes"),
        ({"interleave": ["a", ""]}, "is not two recipes"),
        ({"interleave": "ab"}, "is not two recipes"),
        ({"interleave": None}, "is not two recipes"),
        ({"interleave": ["a", "b"], "recipe": "a"}, "'recipe' beside `interleave`"),
        ({"interleave": ["a", "b"], "weights": [1, 2]}, "'weights' beside `interleave`"),
        ({"interleave": ["a", "b"], "params": {"explore": {}}}, "cannot be drawn as well"),
        ({"interleave": ["a", "b"], "params": [1]}, "recipe and its parameters|recipe: name"),
    ],
)
def test_what_is_no_interleaving_is_refused(value: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check(mix(value))


def test_only_arms_of_experiments_interleave() -> None:
    for feature in ({"defaultValue": PAIR}, {"rules": [{"force": PAIR}]}):
        with pytest.raises(BadInput, match="only an arm of an experiment can interleave"):
            check(parse_object({"ranker": feature}))
        found = Assigner(parse_object({"ranker": feature})).route("u1", "feed")  # as it may lie in Redis, unchecked
        assert (found.recipe, found.interleaving) == (None, None)
    with pytest.raises(BadInput, match="release an arm of one"):
        check(actions.stop(mix(PAIR), "mix", "mixed"))
    check(actions.stop(mix(PAIR), "mix", "control"))


def test_what_lies_unchecked_in_the_store_routes_to_the_champion() -> None:
    found = Assigner(mix({"interleave": ["a"]}, weights=[0.0, 1.0])).route("u1", "feed")
    assert (found.recipe, found.interleaving) == (None, None)
    assert interleaved({"interleave": 3}) is None and interleaved("flag") is None
    assert (recipe_shown(PAIR), recipe_shown({"recipe": "a"}), recipe_shown(True)) == ("adi+dsfm & adi+shared_dnn", "a", None)


def test_a_new_interleaving_needs_bundles_and_one_that_runs_can_only_be_stopped(redis_url: str, tmp_path: Path) -> None:
    known: Collection[str] = ["adi+dsfm", "adi+shared_dnn"]
    with redis.Redis.from_url(redis_url) as client:
        store = ExperimentStore(client, lambda: known)
        with pytest.raises(BadInput, match="'mix' interleaves 'adi\\+new', a recipe without a bundle"):
            store.write(mix({"interleave": ["adi+dsfm", "adi+new"]}), who="a", expected_version=0)
        with pytest.raises(BadInput, match="adi\\+new"):
            store.rehearse(lambda now: mix({"interleave": ["adi+new", "adi+dsfm"]}))
        store.write(mix(PAIR), who="a", expected_version=0)
        with pytest.raises(BadInput, match="release an arm of one"):
            Promoter(store, tmp_path).promote("mix", "mixed", who="a", why="")
        known = []
        assert store.change(lambda now: actions.pause(now, "mix"), who="a").version == 2
        assert store.change(lambda now: actions.stop(now, "mix"), who="a").version == 3
