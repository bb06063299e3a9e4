"""Which value a unit gets: GrowthBook's evaluation order (https://docs.growthbook.io/lib/build-your-own, "evalFeature"
and "run"), without its browser parts (sticky cookies, URL redirects, encrypted payloads). Pure: definitions and
attributes in, result out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from abtest.buckets import bucket, choose_variation, in_namespace, in_range, query_string_override
from abtest.conditions import matches
from abtest.definitions import BanditLeaf, Definitions, Experiment, Filter, ParentCondition, Rule, Split

Json = Any
Source = Literal["unknownFeature", "defaultValue", "force", "experiment", "prerequisite", "cyclicPrerequisite"]

_NO_LEAF = -1


@dataclass(frozen=True, slots=True)
class Scope:
    """One evaluation's inputs. forced: experiment key -> arm index for testers; url: its query string may name an arm."""

    definitions: Definitions
    attributes: Mapping[str, Json]
    enabled: bool = True
    qa_mode: bool = False
    forced: Mapping[str, int] = field(default_factory=dict)
    url: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One experiment for one unit. hash_used is False when the arm was forced rather than drawn."""

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


@dataclass(frozen=True, slots=True)
class FeatureResult:
    value: Json
    source: Source
    rule_id: str = ""
    outcome: Outcome | None = None

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
    for rule in feature.rules if feature.active else ():
        if not rule.active:
            continue
        verdict = _prerequisites(scope, rule.parentConditions, (*above, name))
        if verdict in ("prerequisite", "cyclicPrerequisite"):
            return FeatureResult(None, verdict)
        if verdict == "skip" or not matches(scope.attributes, rule.condition, scope.definitions.savedGroups):
            continue
        if rule.forces:
            if _selected(scope, rule, name):
                return FeatureResult(rule.force, "force", rule.id)
            continue
        outcome = _draw(scope, rule, name)
        if outcome is not None and outcome.in_experiment and not outcome.passthrough:
            return FeatureResult(outcome.value, "experiment", rule.id, outcome)
    return FeatureResult(feature.defaultValue, "defaultValue")


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
    hash_value = _hash_value(scope.attributes, split.hashAttribute)

    def outcome(index: int, drawn: bool = False, position: float | None = None) -> Outcome:
        inside = 0 <= index < len(variations)
        index = index if inside else 0
        passthrough = index < len(split.meta) and split.meta[index].passthrough
        return Outcome(
            key, index, split.arm(index), variations[index] if variations else None, inside, drawn, split.hashAttribute,
            hash_value, position, leaf if drawn else None, passthrough,
        )  # fmt: skip

    if len(variations) < 2 or not scope.enabled:
        return outcome(-1)
    asked = query_string_override(key, scope.url, len(variations)) if scope.url else None
    if asked is None:
        asked = scope.forced.get(key)
    if asked is not None:
        return outcome(asked)
    if not split.active or split.status == "draft" or not hash_value or not allowed or not _in_slice(scope, split, hash_value):
        return outcome(-1)
    position = bucket(split.seed or key, hash_value, split.hashVersion)
    if position is None:
        return outcome(-1)
    if leaf is None:
        spans = split.spans()
    else:
        spans = split.model_copy(update={"variations": list(variations)}).spans(leaf.weights or None)
    index = choose_variation(position, spans)
    if index < 0:
        return outcome(-1)
    if force is not None:
        return outcome(force)
    if scope.qa_mode or split.status == "stopped":
        return outcome(-1)
    return outcome(index, drawn=True, position=position)


def _in_slice(scope: Scope, split: Split, hash_value: str) -> bool:
    """Filters supersede a namespace."""
    if split.filters:
        return all(_passes(scope, one) for one in split.filters)
    return split.namespace is None or in_namespace(hash_value, split.namespace)


def _passes(scope: Scope, one: Filter) -> bool:
    value = _hash_value(scope.attributes, one.attribute)
    position = bucket(one.seed, value, one.hashVersion) if value else None
    return position is not None and any(in_range(position, span) for span in one.ranges)


def _selected(scope: Scope, rule: Rule, feature: str) -> bool:
    """Whom a force rule reaches: everyone, or the units inside its range, or the first `coverage` of them."""
    if rule.filters and not all(_passes(scope, one) for one in rule.filters):
        return False
    if rule.range is None and rule.coverage is None:
        return True
    value = _hash_value(scope.attributes, rule.hashAttribute)
    position = bucket(rule.seed or feature, value, rule.hashVersion) if value else None
    if position is None:
        return False
    if rule.range is not None:
        return in_range(position, rule.range)
    return bool(rule.coverage) and position <= (rule.coverage or 0.0)


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


def _hash_value(attributes: Mapping[str, Json], name: str) -> str:
    """The unit as text; "" when there is none. Whole floats and ints are one unit."""
    value = attributes.get(name)
    if isinstance(value, str):
        return value
    if not value:
        return ""
    if isinstance(value, bool):
        return "true"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
