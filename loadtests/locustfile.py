"""Closed-loop load in a dataset's own mix: `locust -f loadtests/locustfile.py --headless --users 16 --run-time 60s`.

MDREC_LOAD_DATASET: the dataset to draw from; MDREC_URL (or --host): a running gateway. Every answer is checked. Locust waits
for an answer before it asks again, so its latencies hide queueing: quote those of loadtests/open_loop.py.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

from locust import FastHttpUser, constant, events, task
from locust.env import Environment

from loadtests.answers import feedback_problem, recommend_problem, score_problem
from loadtests.traffic import Traffic, dataset_directory

K = 10

try:
    TRAFFIC = Traffic.read(dataset_directory())
except OSError as error:
    sys.exit(f"no dataset to draw from: {error}; set MDREC_LOAD_DATASET to a directory with dataset.yaml")
RUNGS: Counter[str] = Counter()


class Visitor(FastHttpUser):
    """Mostly asks for ads, sometimes scores a list, sometimes reports what became of its last answer."""

    host = os.environ.get("MDREC_URL", "http://127.0.0.1:8080")
    wait_time = constant(0)

    @task(16)
    def recommend(self) -> None:
        self._recommend()

    @task(2)
    def score(self) -> None:
        body = TRAFFIC.score()
        with self.client.post("/v1/score", json=body, catch_response=True) as response:
            _judge(response, lambda status, answer: score_problem(status, answer, body["ad_ids"]))

    @task(4)
    def feedback(self) -> None:
        asked = self._recommend()
        if asked is None:
            return
        body = TRAFFIC.feedback(*asked)
        with self.client.post("/v1/feedback", json=body, catch_response=True) as response:
            _judge(response, lambda status, answer: feedback_problem(status, answer, len(body["events"])))

    def _recommend(self) -> tuple[str, dict[str, Any]] | None:
        """(user_id, answer), or None when the answer was wrong."""
        body = TRAFFIC.recommend(K)
        with self.client.post("/v1/recommend", json=body, catch_response=True) as response:
            answer = _judge(response, lambda status, answer: recommend_problem(status, answer, K))
        if answer is None:
            return None
        RUNGS.update(answer["degraded"] or ["full service"])
        return body["user_id"], answer


def _judge(response: Any, problem_of: Any) -> dict[str, Any] | None:
    """Tell Locust whether the answer is right; the parsed answer when it is."""
    try:
        answer = response.json() if response.status_code else {}
        problem = problem_of(response.status_code, answer)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # not JSON, or not the agreed shape
        problem = f"malformed answer: {type(error).__name__}"
    if problem:
        response.failure(problem)
        return None
    response.success()
    return dict(answer)


def _sum_up(environment: Environment, **_: Any) -> None:
    """Degraded answers are valid and cheap: a good latency made of them must not pass for a good latency. And no answer at
    all is no success."""
    print("recommend answers by rung:", dict(RUNGS.most_common()), file=sys.stderr)
    if not environment.stats.total.num_requests:
        print("no request was answered", file=sys.stderr)
        environment.process_exit_code = 1


events.quitting.add_listener(_sum_up)  # type: ignore[no-untyped-call]
