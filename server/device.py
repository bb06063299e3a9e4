"""One thread that owns a GPU. Requests hand it work and wait without holding the event loop; what arrives while the device is
busy and can be done together (together.py) is done together, so batches grow with load.

A CPU gateway has none: its models answer on the event loop (pipeline.py says why).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from prometheus_client import Histogram

from server.together import Handler, handled

_log = logging.getLogger("mdrec.server")

MOST_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class _Job:
    """work: what the handler changes in place; kind: jobs of one kind may be handled in one call."""

    kind: Hashable
    handler: Handler
    work: Any
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Device:
    """The owner thread. sizes: observes how many jobs each call took."""

    def __init__(self, sizes: Histogram | None = None) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._sizes = sizes
        self._thread = threading.Thread(target=self._own, name="device", daemon=True)
        self._thread.start()

    async def do(self, kind: Hashable, handler: Handler, work: Any) -> None:
        loop = asyncio.get_running_loop()
        job = _Job(kind, handler, work, loop, loop.create_future())
        self._jobs.put(job)
        await job.done

    def close(self) -> None:
        """Finish what was asked for, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _own(self) -> None:
        while self._arrived():
            first = self._waiting[0]
            together = [job for job in self._waiting if job.kind == first.kind][:MOST_TOGETHER]
            taken = set(map(id, together))
            self._waiting = deque(job for job in self._waiting if id(job) not in taken)
            # who gave up waiting (a client gone) is not worked for
            self._handle([job for job in together if not job.done.cancelled()])

    def _arrived(self) -> bool:
        """Take in what has come, waiting only where there is nothing to do. False at the end."""
        try:
            while (job := self._jobs.get(block=not self._waiting)) is not None:
                self._waiting.append(job)
                if self._jobs.empty():
                    return True
        except Empty:
            return True
        if self._waiting:
            self._jobs.put(None)  # the end, once more, after the rest
            return True
        return False

    def _handle(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        for job, error in zip(jobs, handled(jobs[0].handler, [job.work for job in jobs], self._sizes), strict=True):
            _tell(job, error)


def _tell(job: _Job, error: Exception | None) -> None:
    def settle() -> None:
        if job.done.done():
            return
        if error is None:
            job.done.set_result(None)
        else:
            job.done.set_exception(error)

    try:
        job.loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        _log.debug("an answer of the device came after its loop had ended")
