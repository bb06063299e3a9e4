"""A promotion moves the champion or releases an arm, is on record, leaves nothing half done and can be taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from abtest.assign import Assigner
from abtest.experiments import ExperimentStore, VersionConflict, parse_object
from abtest.promotion import Promoter
from contracts.aliases import Aliases
from contracts.errors import BadInput
from contracts.files import write_json
from contracts.manifest import MANIFEST

OLD, NEW = "adi+shared_dnn", "adi+dsfm"


@pytest.fixture
def store(redis_url: str) -> ExperimentStore:
    return ExperimentStore(redis.Redis.from_url(redis_url))


@pytest.fixture
def aliases(home: Path) -> Aliases:
    aliases = Aliases(home)
    for name, recipe in (("b1", OLD), ("b2", NEW)):
        write_json(aliases.bundle_directory(name) / MANIFEST, {})
        aliases.move(recipe, name)
    return aliases


def define(store: ExperimentStore, arm: dict[str, Any] | None = None, **rule: Any) -> int:
    variations = [{"recipe": OLD}, arm or {"recipe": NEW}]
    whole = {"key": "x", "variations": variations, "meta": [{"key": "old"}, {"key": "new"}], **rule}
    return store.write(parse_object({"ranker": {"rules": [whole]}}), who="ada", expected_version=0).version


def served(store: ExperimentStore, aliases: Aliases, user: str = "u", domain: str = "feed") -> str | None:
    return Assigner(store.read().definitions).route(user, domain).recipe or aliases.champion()


def users(store: ExperimentStore) -> dict[str, str]:
    assigner = Assigner(store.read().definitions)
    return {user: one.arm for user in map(str, range(200)) for one in assigner.assign(user, "feed")}


def test_a_recipe_for_all_becomes_champion_and_comes_back(store: ExperimentStore, aliases: Aliases, home: Path) -> None:
    define(store)
    before = users(store)
    promoter = Promoter(store, home)
    done, after = promoter.promote("x", "new", who="ada", why="it won")
    assert (done.champion, done.before, after.definitions.experiment("x").status) == (NEW, OLD, "stopped")
    assert {served(store, aliases, user) for user in before} == {NEW} and not users(store)
    last, stopped = store.history(2)
    assert (last.diff, last.who, last.why) == ({"champion": [OLD, NEW]}, "ada", "it won")
    assert stopped.diff["features.ranker.rules.0.status"] == [None, "stopped"]
    promoter.revert("x", who="bob", why="complaints")
    assert aliases.champion() == OLD and users(store) == before
    assert (store.history(1)[0].diff, store.history(1)[0].who) == ({"champion": [NEW, OLD]}, "bob")
    with pytest.raises(BadInput, match="no promotion"):
        promoter.revert("x", who="bob", why="again")


@pytest.mark.parametrize(
    ("arm", "rule"),
    [({"recipe": NEW, "params": {"k": 3}}, {}), ({"params": {"k": 3}}, {}), ({"recipe": NEW}, {"condition": {"domain": "feed"}})],
)
def test_what_was_not_tried_on_all_is_released_to_those_it_targets(
    store: ExperimentStore, aliases: Aliases, home: Path, arm: dict[str, Any], rule: dict[str, Any]
) -> None:
    define(store, arm, **rule)
    before = users(store)
    Promoter(store, home).promote("x", "new", who="ada", why="")
    assert aliases.champion() == OLD
    routing = Assigner(store.read().definitions).route("anybody", "feed")
    assert (routing.recipe, dict(routing.params), routing.arms) == (arm.get("recipe"), arm.get("params", {}), [])
    if rule:
        assert served(store, aliases, domain="search") == OLD
    Promoter(store, home).revert("x", who="ada", why="")
    assert users(store) == before


@pytest.mark.parametrize(
    ("arm", "rule", "message"),
    [
        ("old", {}, "is the control"),
        ("newer", {}, "no arm 'newer'"),
        ("new", {"status": "draft"}, "is draft, not running"),
    ],
)
def test_an_arm_that_cannot_be_promoted_moves_nothing(
    store: ExperimentStore, aliases: Aliases, home: Path, arm: str, rule: dict[str, Any], message: str
) -> None:
    version = define(store, **rule)
    with pytest.raises(BadInput, match=message):
        Promoter(store, home).promote("x", arm, who="ada", why="")
    assert (aliases.champion(), store.read().version) == (OLD, version)


def test_a_recipe_without_a_bundle_is_not_crowned(store: ExperimentStore, aliases: Aliases, home: Path) -> None:
    version = define(store, {"recipe": "adi+star"})
    with pytest.raises(BadInput, match="has no bundle"):
        Promoter(store, home).promote("x", "new", who="ada", why="")
    assert (aliases.champion(), store.read().version) == (OLD, version)


def test_a_write_in_between_leaves_champion_and_experiment(
    store: ExperimentStore, aliases: Aliases, home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator pauses the experiment just after the promotion has read it."""
    version = define(store)
    other = ExperimentStore(redis.Redis.from_url(redis_url))
    crown = Aliases.crown

    def meanwhile(self: Aliases, recipe: str) -> None:
        crown(self, recipe)
        if recipe == NEW:
            other.change(lambda now: now.amend("x", active=False), who="bob")

    monkeypatch.setattr(Aliases, "crown", meanwhile)
    with pytest.raises(VersionConflict):
        Promoter(store, home).promote("x", "new", who="ada", why="")
    assert (aliases.champion(), store.read().version) == (OLD, version + 1)
    with pytest.raises(VersionConflict):
        Promoter(store, home).promote("x", "new", who="ada", why="", expected_version=version)


def test_a_promotion_that_others_built_on_is_not_taken_back(store: ExperimentStore, aliases: Aliases, home: Path) -> None:
    define(store)
    promoter = Promoter(store, home)
    promoter.promote("x", "new", who="ada", why="")
    aliases.crown(OLD)
    with pytest.raises(BadInput, match="by now"):
        promoter.revert("x", who="ada", why="")
    aliases.crown(NEW)
    store.change(lambda now: now.amend("x", status="running"), who="bob")
    with pytest.raises(BadInput, match="changed since"):
        promoter.revert("x", who="ada", why="")
