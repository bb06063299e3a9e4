"""A wrong answer is a failure however fast it came."""

from __future__ import annotations

from typing import Any

import pytest
from fake_gateway import recommend_answer

from loadtests.answers import feedback_problem, recommend_problem, score_problem

ADS = recommend_answer()["ads"]


def test_a_right_answer_has_no_problem() -> None:
    assert recommend_problem(200, recommend_answer(), 3) is None
    without_ranker = recommend_answer() | {"ads": [one | {"p_click": None} for one in ADS]}
    assert recommend_problem(200, without_ranker, 10) is None


@pytest.mark.parametrize(
    ("status", "change", "problem"),
    [
        (503, {}, "status 503"),
        (200, {"bundle_id": ""}, "no bundle_id"),
        (200, {"ads": []}, "no ads"),
        (200, {"ads": [*ADS, ADS[0] | {"position": 3}]}, "4 ads for k = 3"),
        (200, {"ads": [ADS[0], ADS[0] | {"position": 1}]}, "one ad twice"),
        (200, {"ads": [ADS[1], ADS[0]]}, "positions"),
        (200, {"ads": [ADS[0] | {"p_click": 1.5}]}, "p_click"),
        (200, {"ads": [ADS[0] | {"p_click": float("nan")}]}, "p_click"),
    ],
)
def test_recommend_problems(status: int, change: dict[str, Any], problem: str) -> None:
    assert problem in str(recommend_problem(status, recommend_answer() | change, 3))


def test_score_problems() -> None:
    def answer(scored: list[str], unknown: list[str]) -> dict[str, Any]:
        return {"bundle_id": "b1", "scores": [{"ad_id": one} for one in scored], "unknown_ad_ids": unknown}

    assert score_problem(200, answer(["a", "c"], ["b"]), ["a", "b", "c"]) is None
    assert score_problem(200, answer(["c", "a"], ["b"]), ["a", "b", "c"]) == "scores are not in the order asked"
    assert score_problem(200, answer(["a"], []), ["a", "b"]) == "scores are not in the order asked"
    assert score_problem(200, answer([], ["a"]), ["a"]) == "every ad is unknown"
    assert score_problem(200, answer(["a"], []) | {"bundle_id": ""}, ["a"]) == "no bundle_id"
    assert score_problem(422, {}, ["a"]) == "status 422"


def test_feedback_problems() -> None:
    assert feedback_problem(202, {"accepted": 2, "rejected": []}, 2) is None
    assert feedback_problem(202, {"accepted": 1, "rejected": []}, 2) == "1 of 2 events accepted"
    assert feedback_problem(202, {"accepted": 1, "rejected": [{"index": 0, "reason": "late"}]}, 2) == "rejected: late"
    assert feedback_problem(200, {"accepted": 2, "rejected": []}, 2) == "status 200"
