"""What must hold before an operator's definitions are stored. GrowthBook's evaluation forgives much of this (wrong
weights become equal ones); an operator who wrote it meant something else. Every failure is a BadInput naming the field."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from abtest.canary import check_canary, check_canary_change
from abtest.definitions import Definitions, Rule
from abtest.explore import Explore
from abtest.ramp import moved_share
from contracts.errors import BadInput

Json = Any


def check(definitions: Definitions) -> None:
    """Each rule on its own, and experiment keys across all of them."""
    seen: dict[str, str] = {}
    for name, feature in definitions.features.items():
        _check_value(f"features.{name}.defaultValue", feature.defaultValue)
        for index, rule in enumerate(feature.rules):
            where = f"features.{name}.rules.{index}"
            if rule.coverage is not None and not 0 <= rule.coverage <= 1:
                raise BadInput(f"{where}.coverage: {rule.coverage} is outside [0, 1]", "it is the share of units taken in")
            if rule.forces:
                _check_value(f"{where}.force", rule.force)
            elif rule.is_experiment:
                key = rule.key or name
                if key in seen:
                    raise BadInput(f"{where}.key: {key!r} is already defined by {seen[key]}", "give each experiment its own key")
                seen[key] = where
                _check_split(where, rule)
            if rule.canary is not None:
                check_canary(where, rule)


def check_change(before: Definitions, after: Definitions) -> None:
    """No experiment may move a unit from one of its arms to another: what was measured on it would belong to both."""
    old = before.experiments()
    for key, rule in after.experiments().items():
        if key in old:
            check_canary_change(key, old[key], rule)
        moved = moved_share(old[key], rule) if key in old else 0.0
        if moved > 0:
            raise BadInput(
                f"experiment {key!r}: {moved:.1%} of all units would change arms",
                "raise the coverage, use `mdrec ab ramp`, or start a new experiment under a new key",
            )


def _check_split(where: str, rule: Rule) -> None:
    arms, weights, ranges = rule.arms, rule.weights, rule.ranges
    if len(arms) < 2:
        raise BadInput(f"{where}.variations: an experiment needs two or more, got {len(arms)}", "the first one is the control")
    if len(set(arms)) < len(arms):
        raise BadInput(f"{where}.meta: two arms have the same key in {arms}", "name each arm once")
    if rule.released is not None and (rule.released not in arms or rule.status != "stopped"):
        raise BadInput(
            f"{where}.released: {rule.released!r} is no arm of a stopped experiment", f"stop it, and name one of {arms}"
        )
    if rule.hashVersion not in (1, 2):
        raise BadInput(f"{where}.hashVersion: {rule.hashVersion} is unknown", "use 2")
    if weights is not None and (len(weights) != len(arms) or min(weights) < 0 or not 0.99 <= sum(weights) <= 1.01):
        raise BadInput(f"{where}.weights: {weights} is not {len(arms)} shares that sum to 1", "leave it out for equal shares")
    if ranges is not None:
        if len(ranges) != len(arms):
            raise BadInput(f"{where}.ranges: {len(ranges)} ranges for {len(arms)} arms", "give one range an arm")
        spans = sorted(span for span in ranges if span[1] > span[0])
        if any(left[1] > right[0] for left, right in pairwise(spans)):
            raise BadInput(f"{where}.ranges: arms overlap in {ranges}", "a unit can be in one arm only")
    for index, value in enumerate(rule.variations):
        _check_value(f"{where}.variations.{index}", value)


def _check_value(where: str, value: Json) -> None:
    """{"recipe": name, "params": {...}}, either part optional, and beside a recipe the "bundle" of it; anything else is a plain
    flag, which is fine too."""
    if not isinstance(value, dict) or not ("recipe" in value or "params" in value):
        return
    well_typed = isinstance(value.get("recipe", ""), str) and isinstance(value.get("params", {}), dict)
    if "bundle" in value and not (isinstance(value["bundle"], str) and value["bundle"] and value.get("recipe")):
        raise BadInput(f"{where}.bundle: {value} is not a recipe and a bundle of it", "name the recipe that the bundle is of")
    if not well_typed or value.keys() - {"recipe", "params", "bundle"}:
        raise BadInput(f"{where}: {value} is not {{recipe: name, params: {{...}}}}", "an arm is a recipe and its parameters")
    try:
        Explore.of(value.get("params", {}))
    except BadInput as error:
        raise BadInput(f"{where}.params.{error.message}", error.hint) from None
