"""The parts of one worker, put together by app.py and shared by its routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from server.ads import AdsToday
from server.bundle import Bundle
from server.caps import Caps
from server.experiments import Experiments
from server.exposures import ExposureLog
from server.feedback import FeedbackLog
from server.fold import Folder
from server.metrics import Metrics
from server.permits import Permits
from server.pipeline import Pipeline
from server.recent import Recent
from server.redis_door import Client
from server.scores import Scores
from server.settings import Settings
from server.sticky import Sticky
from server.swap import Registry
from server.trials import Trials

_log = logging.getLogger("mdrec.server")

_CANCEL_SECONDS = 0.2


@dataclass
class Gateway:
    settings: Settings
    metrics: Metrics
    redis: Client
    registry: Registry
    pipeline: Pipeline
    permits: Permits
    experiments: Experiments
    sticky: Sticky
    ads: AdsToday
    exposures: ExposureLog
    feedback: FeedbackLog
    folder: Folder
    recent: Recent
    scores: Scores
    trials: Trials
    caps: Caps
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def bundles(self) -> list[Bundle]:
        """All that answer here, for users or as shadows."""
        return [*self.registry.live.all(), *self.trials.shadows.bundles()]

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work after the answer. A task that fails is logged and counted, never lost."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def stop(self) -> None:
        """Cancel what still runs and wait for it. A cancellation can be lost in what a task awaits (it was, in Redis
        calls), so it is sent until it arrives."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks), timeout=_CANCEL_SECONDS)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("background task %s failed", task.get_name(), exc_info=task.exception())
            self.metrics.background_errors.labels(task.get_name()).inc()
