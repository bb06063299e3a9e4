"""Metrics against their definitions, spelled out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import BadInput
from trainer import metrics


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=60))
def test_auc_counts_pairs_with_ties_as_half(rows: list[tuple[bool, int]]) -> None:
    label, score = (np.array(one, dtype=float) for one in zip(*rows, strict=True))
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label > 0] for n in score[label == 0]]
    if not pairs:
        with pytest.raises(BadInput, match="both classes"):
            metrics.auc(label, score)
        return
    assert metrics.auc(label, score) == pytest.approx(np.mean(pairs))


@given(st.lists(st.tuples(st.booleans(), st.floats(-30, 30)), min_size=1, max_size=30))
def test_logloss_is_the_negative_log_likelihood(rows: list[tuple[bool, float]]) -> None:
    label, logit = (np.array(one, dtype=float) for one in zip(*rows, strict=True))
    each = [
        -math.log(1 / (1 + math.exp(-x))) if y else -math.log(1 / (1 + math.exp(x))) for y, x in zip(label, logit, strict=True)
    ]
    assert metrics.logloss(label, logit) == pytest.approx(np.mean(each), abs=1e-9)


def test_logloss_of_a_certain_mistake_is_finite() -> None:
    assert metrics.logloss(np.array([1.0]), np.array([-500.0])) == pytest.approx(500.0)


def test_pointwise_by_domain_with_reasons_for_what_is_absent() -> None:
    label = np.array([1, 0, 0, 1, 1, 0, 0], dtype=np.float32)
    logit = np.array([2, 1, -1, 0, 3, -2, 0], dtype=np.float32)
    domain = np.array([0, 0, 0, 1, 1, 2, 2])
    found = metrics.pointwise(label, logit, domain, ["a", "b", "c", "d"])
    assert found["auc"]["by_domain"] == {"a": 1.0}
    assert found["auc"]["mean_domain"] == found["auc"]["weighted_domain"] == 1.0
    assert found["skipped"]["auc"] == {
        "b": "only positives among 2 impressions",
        "c": "no positives among 2 impressions",
        "d": "no impressions",
    }
    predicted = (1 / (1 + np.exp(-logit[:3]))).mean()
    assert found["calibration"]["by_domain"]["a"] == pytest.approx(predicted / (1 / 3))
    assert "c" not in found["calibration"]["by_domain"] and found["skipped"]["calibration"]["c"]
    assert set(found["logloss"]["by_domain"]) == {"a", "b", "c"}


def test_the_weighted_mean_weighs_by_impressions() -> None:
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0])
    logit = np.array([1, 0, 0, 1, 0, 1, 0, 1])
    found = metrics.pointwise(label, logit, np.array([0, 0, 1, 1, 1, 1, 1, 1]), ["a", "b"])["auc"]
    assert found["mean_domain"] == 0.5 and found["weighted_domain"] == pytest.approx(1.0 * 2 / 8)


def test_log_loss_and_calibration_have_weighted_means_too() -> None:
    label, logit = np.array([1, 0, 1, 0, 0, 0]), np.zeros(6)
    found = metrics.pointwise(label, logit, np.array([0, 0, 1, 1, 1, 1]), ["a", "b"])
    assert found["calibration"]["weighted_domain"] == pytest.approx(1.0 * 2 / 6 + 2.0 * 4 / 6)
    assert found["logloss"]["weighted_domain"] == pytest.approx(math.log(2))


def test_reliability_tells_predicted_and_observed_of_equal_parts() -> None:
    logit = np.array([3.0, -3, 1, -1])
    found = metrics.reliability(np.array([1, 0, 0, 1]), logit, bins=2)
    sigmoid = 1 / (1 + np.exp(-logit))
    assert found == [
        {"predicted": pytest.approx((sigmoid[1] + sigmoid[3]) / 2), "observed": 0.5, "rows": 2},
        {"predicted": pytest.approx((sigmoid[0] + sigmoid[2]) / 2), "observed": 0.5, "rows": 2},
    ]
    assert [one["rows"] for one in metrics.reliability(np.ones(3), np.zeros(3))] == [1, 1, 1]
    assert metrics.reliability(np.zeros(0), np.zeros(0)) == []


def test_nothing_measurable_is_absent() -> None:
    found = metrics.pointwise(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int), ["a"])
    assert (
        "auc" not in found
        and "logloss" not in found
        and found["skipped"]["auc"] == {"a": "no impressions", "overall": "no impressions"}
    )


def test_recall_and_ndcg_by_hand() -> None:
    hit = np.array([[True, False, True, False], [False, False, False, True]])
    relevant = np.array([3, 1])
    assert metrics.recall(hit, relevant, 2) == pytest.approx((1 / 3 + 0) / 2)
    assert metrics.recall(hit, relevant, 10) == pytest.approx((2 / 3 + 1) / 2)
    first = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    assert metrics.ndcg(hit, relevant, 10) == pytest.approx((first + 1 / math.log2(5)) / 2)
    assert metrics.ndcg(hit, relevant, 2) == pytest.approx((1 / (1 + 1 / math.log2(3)) + 0) / 2)


def test_ranked_breaks_ties_evenly_and_puts_padding_last() -> None:
    score = np.zeros((4000, 4))
    valid = np.array([True, True, True, False])
    order = metrics.ranked(score, np.broadcast_to(valid, score.shape), seed=1)
    assert (order[:, 3] == 3).all()
    firsts = np.bincount(order[:, 0], minlength=4)[:3]
    assert abs(firsts - 4000 / 3).max() < 5 * math.sqrt(4000 * 2 / 9)
    best = metrics.ranked(np.array([[0.1, 3.0, -2.0]]), np.ones((1, 3), dtype=bool), seed=1)
    assert best.tolist() == [[1, 0, 2]]
