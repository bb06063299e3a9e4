"""What must hold before an operator's definitions are stored. GrowthBook's evaluation forgives much of this (wrong
weights become equal ones); an operator who wrote it meant something else. Every failure is a BadInput naming the field."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from abtest.canary import check_canary, check_canary_change
from abtest.definitions import Definitions, Rule, interleaved
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


def check_recipes(before: Definitions, after: Definitions, known: Collection[str]) -> None:
    """An interleaving needs both slates of every request, so a new one may only name recipes with a bundle in service (`known`).
    Those that were there before are not looked at: to pause or to stop one must work whatever became of its recipes."""
    old = {pair for rule in before.experiments().values() for pair in map(interleaved, rule.variations)}
    for key, rule in after.experiments().items():
        for pair in map(interleaved, rule.variations):
            unknown = [name for name in pair or () if name not in known]
            if unknown and pair not in old:
                raise BadInput(
                    f"experiment {key!r} interleaves {unknown[0]!r}, a recipe without a bundle",
                    f"recipes with one: {', '.join(sorted(known)) or 'none yet'}; `mdrec nightly --recipe` makes one",
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
        _check_value(f"{where}.variations.{index}", value, may_interleave=True)
    if rule.released is not None and interleaved(rule.variations[arms.index(rule.released)]):
        raise BadInput(
            f"{where}.released: {rule.released!r} interleaves two recipes", "an interleaving only compares; release an arm of one"
        )


def _check_interleave(where: str, value: dict[str, Json]) -> None:
    pair = value["interleave"]
    unknown = value.keys() - {"interleave", "params"}
    if unknown:
        raise BadInput(f"{where}: {min(unknown)!r} beside `interleave`", "write {interleave: [A, B], params: {...}}")
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) and name for name in pair):
        raise BadInput(f"{where}.interleave: {pair} is not two recipes", "write {interleave: [A, B]}")
    if "explore" in value.get("params", {}):
        raise BadInput(f"{where}.params.explore: an interleaved slate cannot be drawn as well", "explore in an arm of one recipe")
    if pair[0] == pair[1]:
        raise BadInput(f"{where}.interleave: {pair[0]!r} against itself", "two equal rankings give neither of them any credit")


def _check_value(where: str, value: Json, may_interleave: bool = False) -> None:
    """{"recipe": name, "params": {...}}, either part optional, and beside a recipe the "bundle" of it; or {"interleave": [name,
    name], "params": {...}}. Anything else is a plain flag, which is fine too."""
    if not isinstance(value, dict) or not value.keys() & {"recipe", "params", "interleave"}:
        return
    if "interleave" in value:
        if not may_interleave:
            raise BadInput(f"{where}: only an arm of an experiment can interleave", "make it one of an experiment's `variations`")
        _check_interleave(where, value)
    well_typed = isinstance(value.get("recipe", ""), str) and isinstance(value.get("params", {}), dict)
    if "bundle" in value and not (isinstance(value["bundle"], str) and value["bundle"] and value.get("recipe")):
        raise BadInput(f"{where}.bundle: {value} is not a recipe and a bundle of it", "name the recipe that the bundle is of")
    if not well_typed or value.keys() - {"recipe", "params", "bundle", "interleave"}:
        raise BadInput(f"{where}: {value} is not {{recipe: name, params: {{...}}}}", "an arm is a recipe and its parameters")
    try:
        Explore.of(value.get("params", {}))
    except BadInput as error:
        raise BadInput(f"{where}.params.{error.message}", error.hint) from None
