"""What runs beside the stable answers: canaries and shadows. A request of a domain that has neither pays one look into a set."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from abtest.assign import Assignment
from abtest.definitions import Definitions
from server.api import RecommendAnswer, RecommendRequest
from server.canaries import Canaries
from server.errors import Problem
from server.metrics import Metrics
from server.shadows import Shadows
from server.stages import Work

_log = logging.getLogger("mdrec.server")

_CALLERS_FAULT = 500  # statuses below are


class Trials:
    """domains: those in which something runs."""

    def __init__(self, canaries: Canaries, shadows: Shadows, metrics: Metrics) -> None:
        self.canaries, self.shadows, self._metrics = canaries, shadows, metrics
        self.domains: frozenset[str] = frozenset()

    def follow(self, definitions: Definitions) -> None:
        """New definitions are in force here."""
        self.canaries.follow(definitions)
        self.shadows.follow(definitions)
        self.domains = self.canaries.domains | self.shadows.domains

    def answered(self, asked: RecommendRequest, arms: Sequence[Assignment], work: Work, answer: RecommendAnswer) -> None:
        """One answer of these domains, which is about to be written. Never waits and never fails: what is wrong with the counting
        must not be wrong with the answer."""
        try:
            if arms:
                milliseconds = answer.timings_ms["total"]
                self.canaries.answered(answer.domain, asked.user_id, arms, work, answer.degraded, milliseconds)
            self.shadows.put(asked, answer)
        except Exception:
            _log.exception("an answer in domain %r was not counted", answer.domain)
            self._metrics.background_errors.labels("trials").inc()

    def failed(self, domain: str, arms: Sequence[Assignment], error: Exception) -> None:
        if not (isinstance(error, Problem) and error.status < _CALLERS_FAULT):
            self.canaries.failed(domain, arms)
