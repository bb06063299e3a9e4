"""Gates hold back a bundle that got worse where that can be known, and only there."""

from __future__ import annotations

from typing import Any

from deploy.gates import agreement, failures, judge

SUPPORT = {"feed": 5_000, "tiny": 20}


def _row(feed: float, tiny: float, reference: float = 0.6) -> dict[str, Any]:
    counting = {"auc": {"by_domain": {"feed": reference, "tiny": reference}}, "recall": {"50": {"by_domain": {"feed": 0.1}}}}
    measured = {"auc": {"by_domain": {"feed": feed, "tiny": tiny}}, "recall": {"50": {"by_domain": {"feed": 0.3}}}}
    return {**measured, "reference": counting}


def test_first_night_needs_only_better_than_chance() -> None:
    assert failures(judge(_row(0.7, 0.4), None, SUPPORT)) == []
    assert "auc:mean: 0.49 against 0.5" in failures(judge(_row(0.49, 0.9), None, SUPPORT))


def test_a_worse_domain_is_named() -> None:
    failed = failures(judge(_row(0.60, 0.9), _row(0.75, 0.9), SUPPORT))
    assert len(failed) == 1 and failed[0].startswith("auc lead in feed: 0 against")


def test_days_that_are_harder_for_everyone_hold_nothing_back() -> None:
    yesterday, today = _row(0.70, 0.9, reference=0.6), _row(0.62, 0.9, reference=0.52)
    assert failures(judge(today, yesterday, SUPPORT)) == []


def test_a_tiny_domain_is_reported_not_judged() -> None:
    gates = judge(_row(0.7, 0.1), _row(0.7, 0.9), SUPPORT)
    assert failures(gates) == []
    assert any(gate.domain == "tiny" and "20 held-out positives" in gate.reason for gate in gates)


def test_a_retriever_alone_is_judged_by_recall() -> None:
    counting = {"recall": {"50": {"by_domain": {"feed": 0.1}}}}
    worse = {"recall": {"50": {"by_domain": {"feed": 0.15}}}, "reference": counting}
    live = {"recall": {"50": {"by_domain": {"feed": 0.3}}}, "reference": counting}
    assert failures(judge(worse, live, SUPPORT)) == [f"recall@50 lead in feed: 0.05 against {0.1 - 2 * (0.5 / 5000) ** 0.5:.4g}"]


def test_disagreement_between_torch_and_onnx_fails() -> None:
    assert failures(agreement({"ranker": 1e-6, "user_tower:0": 0.1})) == ["agreement:user_tower:0: 0.1 against 0.0001"]
