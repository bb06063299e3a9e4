"""Prometheus names of the gateway, in base units, never with a user or an ad as label.

With several workers prometheus_client keeps values in shared files (PROMETHEUS_MULTIPROC_DIR, set before import by the
parent), so that percentiles and counts add up over workers whichever of them is scraped.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels, the labels sorted."""

_REQUEST_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
_STAGE_SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.25, 1.0)

_TOGETHER = (1, 2, 4, 8, 16, 32, 64)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999, 1.0)
_CORRELATIONS = (-1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 0.999, 1.0)
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


class Metrics:
    """One instance an app; `text()` is what /metrics answers."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._observe: dict[tuple[str, ...], Callable[[float], None]] = {}
        self._answered: dict[tuple[str, str], Callable[[float], None]] = {}
        self._http = Histogram(
            "mdrec_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ["route", "status"],
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        self._stage = Histogram(
            "mdrec_stage_duration_seconds",
            "Time of one stage of a request.",
            ["stage", "domain", "recipe"],
            buckets=_STAGE_SECONDS,
            registry=self._registry,
        )
        self._answer = Histogram(
            "mdrec_answer_duration_seconds",
            "Time of one answer from parsing to selection, without HTTP.",
            ["domain", "recipe"],
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        self.together = Histogram(
            "mdrec_together_requests",
            "Requests that one search (and run of its tower) or one turn of ranking served.",
            buckets=_TOGETHER,
            registry=self._registry,
        )
        self.dropped = self._counter("mdrec_candidates_dropped", "Candidates dropped by the filter.", "reason", "domain")
        self.degraded = self._counter("mdrec_degraded", "Answers given from a lower rung.", "rung", "domain")
        self.exposures = self._counter("mdrec_exposures", "Units that met an arm.", "experiment", "arm", "domain")
        self.events = self._counter("mdrec_events", "Exposures and feedback by what became of them.", "type", "domain", "outcome")
        self.shed = self._counter("mdrec_shed", "Requests turned away.", "reason")
        self.refused = self._counter("mdrec_bundle_refused", "Bundles that failed verification and were not served.", "recipe")
        self.background_errors = self._counter("mdrec_background_errors", "Failures of work after the answer.", "task")
        self.bundle_info = self._gauge("mdrec_bundle_info", "1 for the bundle that serves a recipe.", "recipe", "bundle_id")
        self.bundle_age = self._gauge("mdrec_bundle_age_seconds", "Age of the oldest bundle in service.")
        of_shadow = ("recipe", "domain")
        self.shadow_requests = self._counter(
            "mdrec_shadow_requests", "Requests that a shadow was to answer.", *of_shadow, "outcome"
        )
        self.shadow_seconds = self._histogram("mdrec_shadow_duration_seconds", "A shadow's answer.", _REQUEST_SECONDS, *of_shadow)
        self.shadow_overlap = self._histogram(
            "mdrec_shadow_overlap", "Share of ads in both slates, the served and the shadow's.", _SHARES, *of_shadow
        )
        self.shadow_correlation = self._histogram(
            "mdrec_shadow_rank_correlation", "Kendall's tau of the ads in both slates.", _CORRELATIONS, *of_shadow
        )
        self.shadow_difference = self._histogram(
            "mdrec_shadow_p_click_difference", "Absolute difference of p_click of an ad in both slates.", _DIFFERENCES, *of_shadow
        )
        of_canary = ("canary", "arm", "domain", "outcome")
        self.canary_answers = self._counter("mdrec_canary_answers", "Requests of a canary's two arms.", *of_canary)
        self.canary_rolled_back = self._gauge(
            "mdrec_canary_rolled_back", "1 for a canary that was rolled back by itself.", "canary", "domain"
        )
        self.queue_depth = Gauge(
            "mdrec_queue_depth", "Requests waiting for a permit.", registry=self._registry, multiprocess_mode="livesum"
        )

    def stage(self, stage: str, domain: str, recipe: str, seconds: float) -> None:
        self._observed(self._stage, (stage, domain, recipe))(seconds)

    def answer(self, domain: str, recipe: str, seconds: float) -> None:
        observe = self._answered.get((domain, recipe))
        if observe is None:
            observe = self._answered[domain, recipe] = self._answer.labels(domain, recipe).observe
        observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._observed(self._http, (route, str(status)))(seconds)

    def _observed(self, of: Histogram, labels: tuple[str, ...]) -> Callable[[float], None]:
        """Label look-ups cost more than the observation, so the bound method is kept."""
        observe = self._observe.get(labels)
        if observe is None:
            observe = self._observe[labels] = of.labels(*labels).observe
        return observe

    def text(self) -> bytes:
        return generate_latest(self._all())

    def counted(self) -> dict[Series, float]:
        """Every counter and histogram bucket, summed over workers: (name, sorted labels) -> value."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self._all().collect()
            if family.type in ("counter", "histogram")
            for sample in family.samples
            if not sample.name.endswith(("_created", "_sum"))
        }

    def _all(self) -> CollectorRegistry:
        if MULTIPROCESS not in os.environ:
            return self._registry
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return shared

    def close(self) -> None:
        """A worker that stops takes its gauges out of the sum; counts stay."""
        if MULTIPROCESS in os.environ:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, list(labels), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, list(labels), buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, list(labels), registry=self._registry, multiprocess_mode="livemax")
