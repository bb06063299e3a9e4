"""Which arm a request is in. Pure and deterministic by user, so any gateway gives the same answer; what sticky experiments
remember of a user comes in and goes out.

Several experiments may run at once. A recipe can only be chosen once a request: the first feature (in definition order)
that gives this user an arm of an experiment over recipes, or forces a recipe, decides, and later features that choose recipes
are not entered by this user at all, in any arm, so that no arm loses users to another feature. Features that carry only
`params` add up. Arms that let a user on to the next rule (`passthrough`, the open side of a holdout) are met, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from abtest.definitions import Definitions, Feature, interleaved
from abtest.evaluate import FeatureResult, Outcome, Scope, evaluate
from abtest.remembered import Kept, Memory, Unit, units

Json = Any


@dataclass(frozen=True, slots=True)
class Assignment:
    """One experiment this user is in. recipe: None when the arm changes parameters only, or interleaves."""

    experiment: str
    arm: str
    recipe: str | None
    params: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Interleaving:
    """The arm that has a request's slate merged from those of two recipes."""

    experiment: str
    arm: str
    recipes: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Routing:
    """What a request runs: recipe (None: the champion), merged params, and the arms that decided them; kept: what sticky
    experiments want remembered; interleaving: of the recipe, which is the first of its two, with another one; bundle: of the
    recipe, None: the one that its alias serves."""

    recipe: str | None
    params: Mapping[str, Json]
    arms: list[Assignment]
    kept: list[Kept] = field(default_factory=list)
    interleaving: Interleaving | None = None
    bundle: str | None = None


class Assigner:
    """Evaluates one version of the definitions. Features whose values are not arms ({"recipe", "params"}) are skipped."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._features = [name for name, feature in definitions.features.items() if definitions.active and _may_route(feature)]
        running = definitions.experiments()
        self._choosing = {key for key, rule in running.items() if any(map(_names_recipe, rule.variations))}
        self._sticky = [rule for rule in running.values() if rule.sticky and rule.active and rule.status == "running"]

    def assign(self, user_id: str, domain: str, attributes: Mapping[str, Json] | None = None) -> list[Assignment]:
        """The experiments this user is in, in definition order."""
        return self.route(user_id, domain, attributes).arms

    def remembers(self, attributes: Mapping[str, Json]) -> list[Unit]:
        """The units of which sticky experiments remember arms; none where no experiment is sticky."""
        if not self._sticky or not self.definitions.active:
            return []
        return list(dict.fromkeys(unit for rule in self._sticky for unit in units(attributes, rule)))

    def route(
        self, user_id: str, domain: str, attributes: Mapping[str, Json] | None = None, memory: Memory | None = None
    ) -> Routing:
        """Conditions see `seen`. memory: of the units of `remembers`; None where it cannot be read: the hash decides."""
        if not self._features:
            return Routing(None, {}, [])
        scope = Scope(self.definitions, seen(user_id, domain, attributes), memory=memory)
        recipe: str | None = None
        bundle: str | None = None
        default: str | None = None
        decided = False
        interleaving: Interleaving | None = None
        params: dict[str, Json] = {}
        met: list[tuple[Outcome, Json]] = []
        for name in self._features:
            result = evaluate(scope, name)
            met.extend((one, {}) for one in result.passed)
            if not _is_arm(result.value):
                continue
            named = result.value.get("recipe")
            if result.source == "defaultValue":
                default = default or named
            elif self._chooses(result):
                if decided:
                    continue
                decided, recipe, bundle = True, named, result.value.get("bundle")
                if "interleave" in result.value:
                    recipe, interleaving = _interleaving(result)
            if result.outcome is not None:
                met.append((result.outcome, result.value))
            params.update(result.value.get("params", {}))
        arms = [Assignment(one.key, one.arm, value.get("recipe"), value.get("params", {})) for one, value in met]
        kept = [one.kept for one, _ in met if one.kept is not None]
        return Routing(recipe or default, params, arms, kept, interleaving, bundle)

    def _chooses(self, result: FeatureResult) -> bool:
        """Does the value, or another arm of the experiment it comes from, name a recipe?"""
        return _names_recipe(result.value) or (result.outcome is not None and result.outcome.key in self._choosing)


def seen(user_id: str, domain: str, attributes: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """What conditions and hashes see: the given, and `id`, `user_id` and `domain`, which the given cannot override."""
    return {**(attributes or {}), "id": user_id, "user_id": user_id, "domain": domain}


def _interleaving(result: FeatureResult) -> tuple[str | None, Interleaving | None]:
    """Its first recipe and the whole; the champion alone for what is no arm of an experiment."""
    pair = interleaved(result.value)
    if pair is None or result.outcome is None:
        return None, None
    return pair[0], Interleaving(result.outcome.key, result.outcome.arm, pair)


def _may_route(feature: Feature) -> bool:
    values = [feature.defaultValue]
    for rule in feature.rules:
        values += [rule.force, *rule.variations, *rule.contextualVariations]
    return any(map(_is_arm, values))


def _names_recipe(value: Json) -> bool:
    return isinstance(value, dict) and (value.get("recipe") is not None or "interleave" in value)


def _is_arm(value: Json) -> bool:
    return isinstance(value, dict) and ("recipe" in value or "params" in value or "interleave" in value)
