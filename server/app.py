"""The only file that wires: settings -> one worker's parts -> FastAPI application; and the command that starts workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
import uvicorn._subprocess
from fastapi import FastAPI
from pydantic import SecretStr

from abtest.canary import bundles_named
from abtest.definitions import Definitions
from server import admin, catalogue, errors, heap, openapi, outcomes, recommend
from server.ads import AdsToday
from server.canaries import Canaries
from server.caps import Caps
from server.console import routes as console
from server.device import Device
from server.edge import Edge
from server.experiments import Experiments
from server.exposures import ExposureLog
from server.feedback import FeedbackLog
from server.fold import Folder
from server.gateway import Gateway
from server.metrics import MULTIPROCESS, Metrics
from server.permits import Permits
from server.pipeline import Pipeline
from server.protocols import ofrep
from server.recent import Recent
from server.redis_door import RowReader, connect
from server.scores import Scores
from server.settings import Settings
from server.shadows import Shadows
from server.shared_counts import SharedCounts
from server.sticky import Sticky
from server.swap import Registry
from server.trials import Trials

# While a bundle loads in its thread, the loop waits up to this long for the interpreter lock after each call that let go
# of it. Python's 5 ms would be several times a request's own time.
_SWITCH_SECONDS = 0.0005
# A worker that imports on a busy machine answers its parent late: after 5 s, uvicorn killed it and began again, over and over.
_HEALTHCHECK_SECONDS = 60


def create_app(settings: Settings) -> FastAPI:
    """One worker. Its parts start with the application's lifespan and stop with it, exposures flushed."""
    metrics = Metrics()
    redis = connect(settings.redis_url, settings.redis_write_timeout_ms)
    rows = RowReader(settings.redis_url)
    ads = AdsToday(redis, metrics)
    device = Device(metrics.together) if settings.device == "cuda" else None
    pipeline = Pipeline(rows, ads, metrics, settings.redis_timeout_ms, settings.retrieve_k, device)
    scores = Scores(redis, metrics, settings.drift_reference_seconds)
    registry = Registry(settings.home, settings.device, metrics, pipeline.rehearse)
    permits = Permits(
        settings.max_concurrent,
        settings.max_queue,
        settings.domain_share,
        settings.queue_timeout_ms,
        settings.retry_after_seconds,
        metrics,
    )
    counts = SharedCounts(redis, metrics, "trials")
    canaries = Canaries(counts, registry, metrics, settings.redis_url)
    shadows = Shadows(settings, registry, ads, permits, counts, metrics)
    caps = Caps(rows)
    gateway = Gateway(
        settings=settings,
        metrics=metrics,
        redis=redis,
        registry=registry,
        pipeline=pipeline,
        permits=permits,
        experiments=Experiments(redis, metrics),
        sticky=Sticky(rows, redis, settings.sticky_seconds),
        ads=ads,
        exposures=ExposureLog(redis, metrics, settings.exposure_queue, scores.add),
        feedback=FeedbackLog(redis, metrics, settings.event_mark_seconds, caps),
        folder=Folder(redis, ads, metrics),
        recent=Recent(metrics),
        scores=scores,
        trials=Trials(canaries, shadows, metrics),
        caps=caps,
    )

    def pin(definitions: Definitions) -> None:
        pins = frozenset(bundles_named(definitions))
        if pins != registry.pins:
            registry.pins = pins
            gateway.background(registry.refresh(), "swap")

    gateway.experiments.listeners += [pin, gateway.trials.follow, caps.follow]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(_SWITCH_SECONDS)
        gateway.background(gateway.exposures.run(), "exposures")
        gateway.background(gateway.recent.run(), "recent")
        gateway.background(gateway.scores.run(), "scores")
        await gateway.experiments.refresh()
        await gateway.registry.refresh()
        await gateway.ads.refresh(gateway.bundles())
        gateway.background(gateway.registry.run(settings.alias_poll_seconds), "swap")
        gateway.background(gateway.experiments.run(settings.alias_poll_seconds), "experiments")
        gateway.background(gateway.ads.run(gateway.bundles, settings.alias_poll_seconds), "ads")
        gateway.background(shadows.run(), "shadow")
        gateway.background(shadows.run_bundles(settings.alias_poll_seconds), "shadow")
        gateway.background(counts.run(min(settings.alias_poll_seconds, 1.0)), "trials")
        gateway.background(canaries.run(settings.alias_poll_seconds), "canary")
        yield
        await gateway.exposures.flush(settings.shutdown_flush_seconds)
        await gateway.stop()
        await counts.flush()
        shadows.close()
        gateway.registry.close()
        if device is not None:
            device.close()
        await redis.aclose()
        rows.close()
        metrics.close()

    app = FastAPI(
        title="mdrec",
        version="0.1.0",
        description="Multi-domain ad recommendation: retrieve, rank, answer, log.",
        lifespan=lifespan,
    )
    app.state.gateway = gateway
    for part in (recommend, outcomes, catalogue, admin, ofrep, console):
        app.include_router(part.router(gateway))
    errors.install(app)
    openapi.install(app)
    app.add_middleware(Edge, metrics=metrics, max_body_bytes=settings.max_body_bytes, hot=recommend.hot(gateway))
    return app


def worker() -> FastAPI:
    """What uvicorn calls in each worker process: settings come from the environment."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    heap.keep()
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=follow, name="parent", daemon=True).start()  # a killed parent must not leave who holds the port
    return create_app(Settings())


def serve(settings: Settings) -> None:
    """Start the workers and stay until they stop."""
    for name, value in settings.model_dump(exclude_none=True).items():
        os.environ[f"MDREC_{name.upper()}"] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if settings.workers > 1:
        os.environ[MULTIPROCESS] = str(_empty(settings.home / "metrics"))
        _fork_workers()
    uvicorn.run(
        "server.app:worker",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        timeout_worker_healthcheck=_HEALTHCHECK_SECONDS,
        access_log=False,
        server_header=False,
    )


def _fork_workers() -> None:
    """Let uvicorn fork its workers from one process that has imported what all need (preload.py), where it would start each from
    nothing. Linux only: elsewhere system libraries do not bear a fork."""
    if sys.platform == "linux":
        forked = multiprocessing.get_context("forkserver")
        forked.set_forkserver_preload(["server.preload"])
        setattr(uvicorn._subprocess, "spawn", forked)  # noqa: B010  it has no setting for it; its version is pinned


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
