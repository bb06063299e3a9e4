"""Batches made ahead by one thread while a device computes: on a GPU the gather of rows would stand between two steps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_AHEAD = 4
_POLL_SECONDS = 0.1  # how soon the thread of an abandoned iterator ends


def ahead(items: Iterable[T], depth: int = _AHEAD) -> Iterator[T]:
    """The same items in the same order, up to `depth` of them made before they are asked for. What `items` raises is raised here,
    in its place; an iterator that is closed early ends the thread."""
    made: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
    abandoned = threading.Event()

    def put(entry: tuple[T | None, BaseException | None, bool]) -> bool:
        while not abandoned.is_set():
            try:
                made.put(entry, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
        except BaseException as error:  # raised where the items are used
            put((None, error, True))
        else:
            put((None, None, True))

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = made.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]  # not the last, so an item
    finally:
        abandoned.set()
        thread.join()
