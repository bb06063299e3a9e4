"""Shadow traffic: after an answer is written, another recipe answers the same request, is compared with it and forgotten.

A shadow has a bundle instance and a thread of its own (lane.py), so that nothing of it is shared with what users get but
memory-mapped files. Requests wait in one bounded queue and are answered one at a time in a worker, only while permits are
plentiful; what finds the queue full, its shadow still loading or hanging, is dropped and counted. Nothing is logged as an
exposure. On a GPU's gateway shadows compute on the CPU.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple, cast

from abtest.definitions import Definitions
from abtest.shadow import Comparison, Shadow, ShadowCounts, compare
from contracts.aliases import Aliases
from contracts.errors import BundleError, MdrecError
from contracts.keys import shadow_counts
from server.ads import AdsToday
from server.api import RecommendAnswer, RecommendRequest
from server.bundle import Bundle
from server.lane import Lane
from server.metrics import Metrics
from server.permits import Permits
from server.pipeline import Pipeline, Question
from server.redis_door import RowReader
from server.settings import Settings
from server.shared_counts import SharedCounts
from server.swap import RETRY_REFUSED_SECONDS, Registry

_log = logging.getLogger("mdrec.server")

KEEP_SECONDS = 30 * 86_400
_QUIET_SECONDS = 0.005  # between two looks whether permits are plentiful again


class Slot(NamedTuple):
    ad_id: str
    p_click: float | None


class Found(NamedTuple):
    comparison: Comparison
    milliseconds: float
    degraded: bool


@dataclass(eq=False)
class Runner:
    """One shadow in this worker. bundle: None until it is loaded; refused: why it could not be, and when that was."""

    key: str
    shadow: Shadow
    lane: Lane[Found]
    rows: RowReader
    pipeline: Pipeline
    bundle: Bundle | None = None
    refused: tuple[str, float] | None = None

    async def answer(self, asked: RecommendRequest, answer: RecommendAnswer, bundle: Bundle) -> Found:
        """In the lane."""
        question = Question(asked.user_id, asked.domain, asked.k, asked.context, asked.exclude_ad_ids)
        work, watch = await self.pipeline.recommend(bundle, question)
        milliseconds = (perf_counter() - watch.started) * 1e3
        p_click = [None] * len(work.chosen) if work.p_click is None else work.p_click[work.chosen].tolist()
        slate = [Slot(*one) for one in zip(work.domain.ads.ids.take(work.rows[work.chosen]), p_click, strict=True)]
        return Found(compare(answer.ads, slate), milliseconds, bool(work.degraded))

    def close(self) -> None:
        self.lane.close(self.rows.close)


class Job(NamedTuple):
    runner: Runner
    bundle: Bundle
    asked: RecommendRequest
    answer: RecommendAnswer


@dataclass
class Shadows:
    settings: Settings
    registry: Registry
    ads: AdsToday
    permits: Permits
    counts: SharedCounts
    metrics: Metrics
    _wanted: Mapping[str, Shadow] = field(default_factory=dict)
    _runners: dict[str, Runner] = field(default_factory=dict)
    _by_domain: dict[str, list[tuple[str, Shadow]]] = field(default_factory=dict)
    _queue: deque[Job] = field(default_factory=deque)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def domains(self) -> frozenset[str]:
        return frozenset(self._by_domain)

    def bundles(self) -> list[Bundle]:
        return [one.bundle for one in self._runners.values() if one.bundle is not None]

    def problems(self) -> dict[str, str]:
        """Why shadows do not answer in this worker, by key."""
        return {key: one.refused[0] for key, one in self._runners.items() if one.refused is not None}

    def follow(self, definitions: Definitions) -> None:
        """New definitions are in force here; the kill switch takes shadows away, too."""
        wanted = {key: one for key, one in definitions.shadows.items() if one.active} if definitions.active else {}
        self._wanted, self._by_domain = wanted, {}
        for key, shadow in wanted.items():
            self._by_domain.setdefault(shadow.domain, []).append((key, shadow))
        self._changed.set()

    def put(self, asked: RecommendRequest, answer: RecommendAnswer) -> None:
        """Never waits and never fails."""
        for key, shadow in self._by_domain.get(answer.domain, ()):
            if not shadow.takes(key, answer.request_id):
                continue
            runner = self._runners.get(key)
            if runner is None or runner.bundle is None:
                self._other(key, shadow, "", "loading")
            elif len(self._queue) >= self.settings.shadow_queue:
                self._other(key, shadow, runner.bundle.bundle_id, "queue_full")
            else:
                self._queue.append(Job(runner, runner.bundle, asked, answer))
                self._asked.set()

    async def run(self) -> None:
        """Until cancelled: one queued request after the other. The event is seen in a later turn of the loop, when the answer
        has been written."""
        while True:
            await self._asked.wait()
            while self._queue:
                while self.permits.scarce(self.settings.shadow_permits):  # noqa: ASYNC110  # releasing a permit must stay cheap
                    await asyncio.sleep(_QUIET_SECONDS)
                await self._one(self._queue.popleft())
            self._asked.clear()

    async def _one(self, job: Job) -> None:
        runner, bundle_id = job.runner, job.bundle.bundle_id
        if self._runners.get(runner.key) is not runner:
            return  # it was taken away meanwhile
        if runner.lane.working:
            self._other(runner.key, runner.shadow, bundle_id, "stuck")
            return
        answering = runner.lane.submit(runner.answer(job.asked, job.answer, job.bundle))
        await asyncio.wait({answering}, timeout=self.settings.shadow_timeout_ms / 1000)
        if not answering.done():
            answering.cancel()
            self._other(runner.key, runner.shadow, bundle_id, "timeout")
            return
        error = answering.exception()
        if error is not None:
            _log.warning("shadow %r failed: %r", runner.key, error)
            self._other(runner.key, runner.shadow, bundle_id, "failed")
            return
        found = answering.result()
        self._compared(runner, bundle_id, found, job.answer.timings_ms["total"])

    def _compared(self, runner: Runner, bundle_id: str, found: Found, served_ms: float) -> None:
        counts, labels = ShadowCounts(), (runner.shadow.recipe, runner.shadow.domain)
        counts.compared(found.comparison, found.milliseconds, served_ms, found.degraded)
        self._write(runner.key, bundle_id, counts)
        metrics, one = self.metrics, found.comparison
        metrics.shadow_requests.labels(*labels, "degraded" if found.degraded else "compared").inc()
        metrics.shadow_seconds.labels(*labels).observe(found.milliseconds / 1e3)
        if one.overlap is not None:
            metrics.shadow_overlap.labels(*labels).observe(one.overlap)
        if one.rank_correlation is not None:
            metrics.shadow_correlation.labels(*labels).observe(one.rank_correlation)
        for difference in one.differences:
            metrics.shadow_difference.labels(*labels).observe(abs(difference))

    def _other(self, key: str, shadow: Shadow, bundle_id: str, outcome: str) -> None:
        counts = ShadowCounts()
        counts.other(outcome)
        self._write(key, bundle_id, counts)
        self.metrics.shadow_requests.labels(shadow.recipe, shadow.domain, outcome).inc()

    def _write(self, key: str, bundle_id: str, counts: ShadowCounts) -> None:
        self.counts.add(shadow_counts(key), ((f"{bundle_id}|{name}", n) for name, n in counts.fields.items()), KEEP_SECONDS)

    async def run_bundles(self, pause_seconds: float) -> None:
        """Until cancelled: every shadow has the bundle that it names, or the one that its recipe's alias serves."""
        while True:
            self._changed.clear()
            self._part_with_others()
            for key, shadow in self._wanted.items():
                await self._equip(key, shadow)
            try:
                async with asyncio.timeout(pause_seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _part_with_others(self) -> None:
        for key, runner in list(self._runners.items()):
            if self._wanted.get(key) != runner.shadow:
                del self._runners[key]
                runner.close()

    async def _equip(self, key: str, shadow: Shadow) -> None:
        runner = self._runners.get(key) or self._runner(key, shadow)
        if runner.refused is not None and time.monotonic() - runner.refused[1] < RETRY_REFUSED_SECONDS:
            return
        try:
            bundle_id = shadow.bundle or _serving(self.registry.aliases, shadow.recipe)
            if runner.bundle is None or runner.bundle.bundle_id != bundle_id:
                runner.bundle = _checked(await self.registry.load_aside(bundle_id, device="cpu"), shadow)
            runner.refused = None
        except (MdrecError, OSError, ValueError) as error:
            _log.error("shadow %r has no bundle: %s", key, error)
            self.metrics.background_errors.labels("shadow").inc()
            runner.refused = str(error), time.monotonic()

    def _runner(self, key: str, shadow: Shadow) -> Runner:
        rows = RowReader(self.settings.redis_url)
        measured = cast(Metrics, _Unrecorded())
        pipeline = Pipeline(rows, self.ads, measured, self.settings.redis_timeout_ms, self.settings.retrieve_k)
        runner = self._runners[key] = Runner(key, shadow, Lane(f"shadow {key}"), rows, pipeline)
        return runner

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()


class _Unrecorded:
    """Takes what a pipeline measures and keeps nothing: stages and rungs of a shadow are not those of served answers."""

    def stage(self, *_: Any) -> None: ...

    def labels(self, *_: str) -> _Unrecorded:
        return self

    def inc(self, amount: float = 1) -> None: ...

    def observe(self, amount: float) -> None: ...

    @property
    def degraded(self) -> _Unrecorded:
        return self

    dropped = together = degraded


def _serving(aliases: Aliases, recipe: str) -> str:
    alias = aliases.get(recipe)
    if alias is None:
        raise BundleError(f"recipe {recipe!r} has no bundle", f"recipes with one: {', '.join(aliases.recipes()) or 'none'}")
    return alias.bundle_id


def _checked(bundle: Bundle, shadow: Shadow) -> Bundle:
    if bundle.recipe != shadow.recipe or shadow.domain not in bundle.domains:
        raise BundleError(
            f"bundle {bundle.bundle_id} is of recipe {bundle.recipe!r} with domains {', '.join(bundle.domains)}, "
            f"not of {shadow.recipe!r} with {shadow.domain!r}",
            "name a bundle of the recipe, or leave it out",
        )
    return bundle
