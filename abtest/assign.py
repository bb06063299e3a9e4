"""Which arm a request is in. Pure and deterministic by user: no lookup, no memory, so any gateway gives the same answer.

Several experiments may run at once. A recipe can only be chosen once a request: the first feature (in definition order)
that gives this user a recipe by an experiment or a forced rule decides, and later features that name recipes are not
entered by this user at all, in any arm, so that no arm loses users to another feature. Features that carry only `params` add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abtest.definitions import Definitions, Feature
from abtest.evaluate import FeatureResult, Scope, evaluate

Json = Any


@dataclass(frozen=True, slots=True)
class Assignment:
    """One experiment this user is in. recipe: None when the arm changes parameters only."""

    experiment: str
    arm: str
    recipe: str | None
    params: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Routing:
    """What a request runs: recipe (None: the champion), merged params, and the arms that decided them."""

    recipe: str | None
    params: Mapping[str, Json]
    arms: list[Assignment]


class Assigner:
    """Evaluates one version of the definitions. Features whose values are not arms ({"recipe", "params"}) are skipped."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._features = [name for name, feature in definitions.features.items() if _may_route(feature)]

    def assign(self, user_id: str, domain: str, attributes: Mapping[str, Json] | None = None) -> list[Assignment]:
        """The experiments this user is in, in definition order."""
        return self.route(user_id, domain, attributes).arms

    def route(self, user_id: str, domain: str, attributes: Mapping[str, Json] | None = None) -> Routing:
        """Attributes seen by conditions: the given ones, and `id`, `user_id` and `domain`, which the given cannot override."""
        if not self._features:
            return Routing(None, {}, [])
        scope = Scope(self.definitions, {**(attributes or {}), "id": user_id, "user_id": user_id, "domain": domain})
        recipe: str | None = None
        default: str | None = None
        params: dict[str, Json] = {}
        arms: list[Assignment] = []
        for name in self._features:
            result = evaluate(scope, name)
            if not _is_arm(result.value):
                continue
            named = result.value.get("recipe")
            if result.source == "defaultValue":
                default = default or named
            elif named is not None and recipe is not None:
                continue
            else:
                recipe = recipe or named
                arms.extend(_assignments(result))
            params.update(result.value.get("params", {}))
        return Routing(recipe or default, params, arms)


def _assignments(result: FeatureResult) -> list[Assignment]:
    """None for a forced value: it is a roll-out, not an experiment."""
    if result.outcome is None:
        return []
    return [Assignment(result.outcome.key, result.outcome.arm, result.value.get("recipe"), result.value.get("params", {}))]


def _may_route(feature: Feature) -> bool:
    values = [feature.defaultValue]
    for rule in feature.rules:
        values += [rule.force, *rule.variations, *rule.contextualVariations]
    return any(map(_is_arm, values))


def _is_arm(value: Json) -> bool:
    return isinstance(value, dict) and ("recipe" in value or "params" in value)
