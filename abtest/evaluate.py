"""Which value a unit gets: GrowthBook's evaluation order (https://docs.growthbook.io/lib/build-your-own, "evalFeature"
and "run"), without its browser parts (URL redirects, encrypted payloads). Pure: definitions, attributes and what is
remembered of the unit in, result and what to remember out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from abtest.buckets import bucket, choose_variation, in_namespace, in_range, query_string_override
from abtest.conditions import matches
from abtest.definitions import BanditLeaf, Definitions, Experiment, Filter, ParentCondition, Rule, Split
from abtest.remembered import Kept, Memory, hash_value, memory_name, remembered, unit_of

Json = Any
Source = Literal["unknownFeature", "defaultValue", "force", "experiment", "prerequisite", "cyclicPrerequisite"]

_NO_LEAF = -1


@dataclass(frozen=True, slots=True)
class Scope:
    """One evaluation's inputs. forced: experiment key -> arm index for testers; url: its query string may name an arm;
    memory: what sticky experiments remember, None where nothing is remembered and the hash alone decides."""

    definitions: Definitions
    attributes: Mapping[str, Json]
    enabled: bool = True
    qa_mode: bool = False
    forced: Mapping[str, int] = field(default_factory=dict)
    url: str = ""
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One experiment for one unit. hash_used is False when the arm was forced rather than drawn (or remembered);
    kept: None unless there is something new to remember."""

    key: str
    variation: int
    arm: str
    value: Json
    in_experiment: bool
    hash_used: bool
    hash_attribute: str
    hash_value: str
    bucket: float | None = None
    leaf: BanditLeaf | None = None
    passthrough: bool = False
    sticky_used: bool = False
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class FeatureResult:
    """passed: experiments whose open arm (`passthrough`) the unit met on its way to the value."""

    value: Json
    source: Source
    rule_id: str = ""
    outcome: Outcome | None = None
    passed: tuple[Outcome, ...] = ()

    @property
    def on(self) -> bool:
        """Truthiness as JSON has it: null, false, 0 and "" are off, empty objects are on."""
        return self.value is not None and self.value is not False and self.value not in (0, "")


def evaluate(scope: Scope, name: str, above: tuple[str, ...] = ()) -> FeatureResult:
    """One feature. `above`: the features whose prerequisites led here; meeting one again is a cycle."""
    feature = scope.definitions.features.get(name)
    if feature is None:
        return FeatureResult(None, "unknownFeature")
    if name in above:
        return FeatureResult(None, "cyclicPrerequisite")
    passed: tuple[Outcome, ...] = ()
    for rule in feature.rules if feature.active and scope.definitions.active else ():
        if not rule.active:
            continue
        verdict = _prerequisites(scope, rule.parentConditions, (*above, name)) if rule.parentConditions else "pass"
        if verdict in ("prerequisite", "cyclicPrerequisite"):
            return FeatureResult(None, verdict)
        if verdict == "skip" or not matches(scope.attributes, rule.condition, scope.definitions.savedGroups):
            continue
        if rule.filters and not all(_passes(scope, one) for one in rule.filters):
            continue
        if rule.forces:
            if _selected(scope, rule, name):
                return FeatureResult(rule.force, "force", rule.id, passed=passed)
            continue
        if rule.status == "stopped" and rule.released in rule.arms:
            return FeatureResult(rule.variations[rule.arms.index(rule.released)], "force", rule.id, passed=passed)
        outcome = _draw(scope, rule, name)
        if outcome is None or not outcome.in_experiment:
            continue
        if not outcome.passthrough:
            return FeatureResult(outcome.value, "experiment", rule.id, outcome, passed)
        passed += (outcome,)
    return FeatureResult(feature.defaultValue, "defaultValue", passed=passed)


def run(scope: Scope, experiment: Experiment) -> Outcome:
    """An experiment on its own, outside any feature."""
    allowed = (
        matches(scope.attributes, experiment.condition, scope.definitions.savedGroups)
        and _prerequisites(scope, experiment.parentConditions, ()) == "pass"
    )
    return _run(scope, experiment, experiment.key, experiment.variations, allowed=allowed, force=experiment.force)


def _draw(scope: Scope, rule: Rule, feature: str) -> Outcome | None:
    """The arm of an experiment rule; the rule's conditions are known to hold. None: the rule has nothing to draw from."""
    key = rule.key or feature
    if rule.contextualBanditRef is None:
        return _run(scope, rule, key, rule.variations) if rule.variations else None
    bandit = scope.definitions.contextualBandits.get(rule.contextualBanditRef)
    groups = scope.definitions.savedGroups
    leaves = bandit.contexts if bandit else []
    fallback = BanditLeaf(leafId=_NO_LEAF, weights=rule.weights or [])
    leaf = next((leaf for leaf in leaves if matches(scope.attributes, leaf.condition, groups)), fallback)
    return _run(scope, rule, key, rule.contextualVariations, leaf=leaf)


def _run(
    scope: Scope, split: Split, key: str, variations: Sequence[Json],
    allowed: bool = True, force: int | None = None, leaf: BanditLeaf | None = None,
) -> Outcome:  # fmt: skip
    sticks = scope.memory is not None and split.sticky
    unit = unit_of(scope.attributes, split, sticks)

    def outcome(
        index: int, drawn: bool = False, position: float | None = None, sticky: bool = False, kept: Kept | None = None
    ) -> Outcome:
        inside = 0 <= index < len(variations)
        index = index if inside else 0
        passthrough = index < len(split.meta) and split.meta[index].passthrough
        return Outcome(
            key, index, split.arm(index), variations[index] if variations else None, inside, drawn, *unit,
            position, leaf if drawn else None, passthrough, sticky, kept,
        )  # fmt: skip

    if len(variations) < 2 or not scope.enabled:
        return outcome(-1)
    asked = query_string_override(key, scope.url, len(variations)) if scope.url else None
    if asked is None:
        asked = scope.forced.get(key)
    if asked is not None:
        return outcome(asked)
    if not split.active or split.status == "draft" or not unit[1]:
        return outcome(-1)
    met = remembered(scope.memory, scope.attributes, split, key) if scope.memory and sticks else None
    if met is None and not (allowed and _in_slice(scope, split, unit[1])):
        return outcome(-1)
    position = bucket(split.seed or key, unit[1], split.hashVersion)
    if position is None:
        return outcome(-1)
    if met is not None:
        index = met
    elif leaf is None:
        index = choose_variation(position, split.spans())
    else:
        index = choose_variation(position, split.model_copy(update={"variations": list(variations)}).spans(leaf.weights or None))
    if index < 0:
        return outcome(-1, sticky=met is not None)
    if force is not None:
        return outcome(force)
    if scope.qa_mode or split.status == "stopped":
        return outcome(-1)
    kept = Kept(unit, memory_name(key, split.bucketVersion), split.arm(index)) if sticks else None
    if kept is not None and kept.known(scope.memory or {}):
        kept = None
    return outcome(index, drawn=True, position=position, sticky=met is not None, kept=kept)


def _in_slice(scope: Scope, split: Split, value: str) -> bool:
    """Filters supersede a namespace."""
    if split.filters:
        return all(_passes(scope, one) for one in split.filters)
    return split.namespace is None or in_namespace(value, split.namespace)


def _passes(scope: Scope, one: Filter) -> bool:
    value = hash_value(scope.attributes, one.attribute)
    position = bucket(one.seed, value, one.hashVersion) if value else None
    return position is not None and any(in_range(position, span) for span in one.ranges)


def _selected(scope: Scope, rule: Rule, feature: str) -> bool:
    """Whom a force rule reaches: everyone, or the units inside its range, or the first `coverage` of them."""
    if rule.range is None and rule.coverage is None:
        return True
    _, value = unit_of(scope.attributes, rule, sticks=True)
    position = bucket(rule.seed or feature, value, rule.hashVersion) if value else None
    if position is None:
        return False
    if rule.range is not None:
        return in_range(position, rule.range)
    return position < (rule.coverage or 0.0)


def _prerequisites(
    scope: Scope, parents: Sequence[ParentCondition], above: tuple[str, ...]
) -> Literal["pass", "skip", "prerequisite", "cyclicPrerequisite"]:
    for parent in parents:
        result = evaluate(scope, parent.id, above)
        if result.source == "cyclicPrerequisite":
            return "cyclicPrerequisite"
        if not matches({"value": result.value}, parent.condition, scope.definitions.savedGroups):
            return "prerequisite" if parent.gate else "skip"
    return "pass"
