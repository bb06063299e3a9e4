"""Assignment equals GrowthBook's on its public vectors."""

from __future__ import annotations

from typing import Any

import pytest

from abtest.buckets import bucket, bucket_ranges, choose_variation, equal_weights, in_namespace, query_string_override
from abtest.conditions import matches
from abtest.definitions import Definitions, Experiment
from abtest.evaluate import Outcome, Scope, evaluate, run
from abtest.remembered import Unit
from tests.abtest.vectors import vectors


def scope_of(context: dict[str, Any], memory: dict[Unit, dict[str, str]] | None = None) -> Scope:
    return Scope(
        Definitions.model_validate({key: context[key] for key in Definitions.model_fields if key in context}),
        context.get("attributes", {}),
        enabled=context.get("enabled", True),
        qa_mode=context.get("qaMode", False),
        forced=context.get("forcedVariations", {}),
        url=context.get("url", ""),
        memory=memory,
    )


@pytest.mark.parametrize("case", vectors("hash"))
def test_hash(case: list[Any]) -> None:
    seed, value, version, expected = case
    assert bucket(seed, value, version) == expected


@pytest.mark.parametrize("case", vectors("getBucketRange"))
def test_bucket_ranges(case: list[Any]) -> None:
    _, (arms, coverage, weights), expected = case
    got = bucket_ranges(arms, coverage, weights)
    assert [edge for span in got for edge in span] == pytest.approx([edge for span in expected for edge in span])


@pytest.mark.parametrize("case", vectors("chooseVariation"))
def test_choose_variation(case: list[Any]) -> None:
    _, position, ranges, expected = case
    assert choose_variation(position, ranges) == expected


@pytest.mark.parametrize("case", vectors("inNamespace"))
def test_namespace(case: list[Any]) -> None:
    _, unit, namespace, expected = case
    assert in_namespace(unit, tuple(namespace)) == expected


@pytest.mark.parametrize("case", vectors("getEqualWeights"))
def test_equal_weights(case: list[Any]) -> None:
    arms, expected = case
    assert equal_weights(arms) == pytest.approx(expected)


@pytest.mark.parametrize("case", vectors("getQueryStringOverride"))
def test_query_string_override(case: list[Any]) -> None:
    _, key, url, arms, expected = case
    assert query_string_override(key, url, arms) == expected


@pytest.mark.parametrize("case", vectors("evalCondition"))
def test_condition(case: list[Any]) -> None:
    _, condition, attributes, expected, *groups = case
    assert matches(attributes, condition, groups[0] if groups else {}) == expected


@pytest.mark.parametrize("case", vectors("run"))
def test_experiment(case: list[Any]) -> None:
    _, context, experiment, value, in_experiment, hash_used = case
    outcome = run(scope_of(context), Experiment.model_validate(experiment))
    assert (outcome.value, outcome.in_experiment, outcome.hash_used) == (value, in_experiment, hash_used)


@pytest.mark.parametrize("case", vectors("feature") + vectors("contextualBandit"))
def test_feature(case: list[Any]) -> None:
    _, context, name, expected = case
    result = evaluate(scope_of(context), name)
    assert (result.value, result.on, result.source, result.rule_id) == (
        expected["value"], expected["on"], expected["source"], expected["ruleId"],
    )  # fmt: skip
    if "experimentResult" in expected:
        assert result.outcome is not None
        assert as_vector(result.outcome, name) == without_ignored(expected["experimentResult"], result.outcome)


@pytest.mark.parametrize("case", vectors("stickyBucket"))
def test_sticky_bucket(case: list[Any]) -> None:
    _, context, documents, name, expected, remembered = case
    memory = {(one["attributeName"], one["attributeValue"]): dict(one["assignments"]) for one in documents}
    result = evaluate(scope_of(context, memory), name)
    assert result.outcome is not None
    assert as_vector(result.outcome, name) == without_ignored(expected, result.outcome)
    if result.outcome.kept is not None:
        memory.setdefault(result.outcome.kept.unit, {})[result.outcome.kept.name] = result.outcome.kept.arm
    assert memory == {(one["attributeName"], one["attributeValue"]): one["assignments"] for one in remembered.values()}


def as_vector(outcome: Outcome, feature: str) -> dict[str, Any]:
    fields = {
        "featureId": feature, "value": outcome.value, "variationId": outcome.variation, "inExperiment": outcome.in_experiment,
        "hashUsed": outcome.hash_used, "hashAttribute": outcome.hash_attribute, "hashValue": outcome.hash_value,
        "key": outcome.arm, "stickyBucketUsed": outcome.sticky_used,
    }  # fmt: skip
    if outcome.bucket is not None:
        fields["bucket"] = outcome.bucket
    if outcome.leaf is not None:
        fields |= {"leafId": outcome.leaf.leafId, "variationWeights": outcome.leaf.weights}
    if outcome.passthrough:
        fields["passthrough"] = True
    return fields


def without_ignored(expected: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """The bandit's version and an arm's display name are not carried by an Outcome."""
    return {key: value for key, value in expected.items() if key not in ("banditVersion", "name")}
