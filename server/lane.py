"""A thread with an event loop of its own, in which a shadow answers: whatever its models do there, the loop that answers users
goes on. Native code lets go of the interpreter lock while it computes; Python between it holds the lock for at most the
switch interval that app.py sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_STOP_SECONDS = 1.0


class Lane(Generic[T]):
    """One job at a time. A thread cannot be killed: a lane whose job hangs stays `working`, takes nothing more, and does not keep
    the process from leaving."""

    def __init__(self, name: str) -> None:
        self._home = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def working(self) -> bool:
        return not self.idle.is_set()

    def submit(self, job: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """The job's result, in the caller's loop. The lane must not be working."""
        assert not self.working
        self.idle.clear()
        answer: asyncio.Future[T] = self._home.create_future()

        def start() -> None:
            self._loop.create_task(job).add_done_callback(report)

        def report(task: asyncio.Task[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed, and so nobody waits
                self._home.call_soon_threadsafe(self._finish, answer, task)

        self._loop.call_soon_threadsafe(start)
        return answer

    def _finish(self, answer: asyncio.Future[T], task: asyncio.Task[T]) -> None:
        self.idle.set()
        error = None if task.cancelled() else task.exception()
        if answer.done():  # given up
            return
        if task.cancelled():
            answer.cancel()
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    def close(self, last: Callable[[], None]) -> None:
        """Waits a moment for the thread; one that hangs is left to the process's end. last: what the lane does before it."""
        self._loop.call_soon_threadsafe(last)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(0.0 if self.working else _STOP_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()
