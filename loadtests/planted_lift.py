"""Locust users who click more often, or less, in one arm of an experiment: `locust -f loadtests/planted_lift.py --headless`.

What is planted, from the environment: MDREC_PLANTED_ARM, the arm; MDREC_PLANTED_LIFT, fractions of the click rate by domain,
`video=0.3,story=0.3`. Everything else of a click is the same in all arms: one rate times the user's inclination, which
lasts. MDREC_LOAD_VISITORS: how many users there are; MDREC_LOAD_ANSWERS: the run ends after so many answers.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from uuid import uuid4

import gevent
import numpy as np
from locust import FastHttpUser, constant, task

from loadtests.answers import feedback_problem, recommend_problem
from loadtests.traffic import Traffic, dataset_directory

K = 5
_CLICK_RATE = 0.15
_TRAFFIC = Traffic.read(dataset_directory(), seed=0)
_DOMAINS = sorted(set(_TRAFFIC.domains))
_ARM = os.environ.get("MDREC_PLANTED_ARM", "")
_PLANTED = [one.partition("=") for one in os.environ.get("MDREC_PLANTED_LIFT", "").split(",") if one]
_LIFT = {name: float(lift) for name, _, lift in _PLANTED}
_VISITORS = int(os.environ.get("MDREC_LOAD_VISITORS", "6000"))
_ANSWERS = int(os.environ.get("MDREC_LOAD_ANSWERS", "15000"))
_RANDOM = np.random.default_rng(1)
_INCLINATION = np.random.default_rng(2).gamma(4.0, 0.25, _VISITORS)

_UNKNOWN = sorted(set(_LIFT) - set(_DOMAINS))
if _UNKNOWN:
    sys.exit(f"MDREC_PLANTED_LIFT names {', '.join(_UNKNOWN)}; domains are {', '.join(_DOMAINS)}")


class Visitor(FastHttpUser):
    """Asks for ads in some domain and reports what he sees and clicks."""

    host = os.environ.get("MDREC_URL", "http://127.0.0.1:8080")
    wait_time = constant(0)
    answers = 0

    @task
    def visit(self) -> None:
        visitor = int(_RANDOM.integers(_VISITORS))
        body = {**_TRAFFIC.recommend(K), "user_id": f"visitor-{visitor}", "domain": _DOMAINS[_RANDOM.integers(len(_DOMAINS))]}
        with self.client.post("/v1/recommend", json=body, catch_response=True) as response:
            answer = _judged(response, recommend_problem(response.status_code, response.json(), K))
        if answer is None:
            return
        report = outcomes(visitor, body["user_id"], answer)
        with self.client.post("/v1/feedback", json=report, catch_response=True) as response:
            _judged(response, feedback_problem(response.status_code, response.json(), len(report["events"])))
        Visitor.answers += 1
        if Visitor.answers == _ANSWERS:
            gevent.spawn(self.environment.runner.quit)  # which ends the users, this one too


def outcomes(visitor: int, user_id: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The body of one /v1/feedback: every ad is seen, and clicked by the law above."""
    treated = any(one["arm"] == _ARM for one in answer["arms"])
    lift = _LIFT.get(answer["domain"], 0.0) if treated else 0.0
    rate = min(_CLICK_RATE * _INCLINATION[visitor] * (1 + lift), 1.0)
    shared = {"request_id": answer["request_id"], "user_id": user_id, "domain": answer["domain"]}
    events = []
    for ad in answer["ads"]:
        what = {**shared, "ad_id": ad["ad_id"], "position": ad["position"]}
        for kind in ("impression", "click") if _RANDOM.random() < rate else ("impression",):
            events.append({**what, "event_id": uuid4().hex, "type": kind})
    return {"events": events}


def _judged(response: Any, problem: str | None) -> dict[str, Any] | None:
    if problem:
        response.failure(problem)
        return None
    response.success()
    return dict(response.json())
