"""Requests whose models run in one call: a tower and an index cost several together hardly more than one, for weights, lists and
code come from memory once.

Who is together is nobody's choice to wait: on the event loop (`Meeting`) those whose rows came in one turn of it, on a GPU
(device.py) those who came while it was busy. A lone request waits for nobody.

100,000 ads, DSFM, 500 ranked, processor time a request in one process, medians of 9 alternating rounds: of what requests take one
by one, 2 at once take .93, 4 .87, 8 .71, a lone one the same. Retrieved together and ranked apart .95, .90, .79.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from prometheus_client import Histogram

_log = logging.getLogger("mdrec.server")

Handler = Callable[[Sequence[Any]], None]
"""Changes each work of a list in place."""


class Together(Protocol):
    async def do(self, kind: Hashable, handler: Handler, work: Any) -> None:
        """Have `handler` called with a list that `work` is in, beside other work of its kind. Raises what it raised for this
        one: of a list that fails, each is tried alone, so that one bad request harms no other."""


def handled(handler: Handler, works: Sequence[Any], sizes: Histogram | None) -> list[Exception | None]:
    """What became of each. sizes: observes how many each call took."""
    if sizes is not None:
        sizes.observe(len(works))
    try:
        handler(works)
    except Exception as error:
        if len(works) == 1:
            return [error]
        _log.warning("%d requests failed together, each is tried alone: %s", len(works), error)
        return [handled(handler, [work], sizes)[0] for work in works]
    return [None] * len(works)


class Meeting:
    """On the event loop of its callers: work of one kind that was given since the loop last turned."""

    def __init__(self, sizes: Histogram | None = None) -> None:
        self._waiting: dict[Hashable, list[tuple[Any, asyncio.Future[None]]]] = {}
        self._sizes = sizes

    async def do(self, kind: Hashable, handler: Handler, work: Any) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        waiting = self._waiting.setdefault(kind, [])
        if not waiting:
            loop.call_soon(self._handle, kind, handler)
        waiting.append((work, done))
        await done

    def _handle(self, kind: Hashable, handler: Handler) -> None:
        # who gave up waiting (a client gone) is not worked for
        here = [(work, done) for work, done in self._waiting.pop(kind) if not done.done()]
        if not here:
            return
        for (_, done), error in zip(here, handled(handler, [work for work, _ in here], self._sizes), strict=True):
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
