"""Batches made ahead: the same items, errors in their place, no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from trainer.prefetch import ahead


def test_the_same_items_in_the_same_order() -> None:
    assert list(ahead(range(100), depth=3)) == list(range(100))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    seen = []
    with pytest.raises(ValueError, match="the third"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_an_abandoned_iterator_ends_its_thread_and_reads_little_more() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    before = threading.active_count()
    some = ahead(items(), depth=2)
    assert next(some) == 0
    some.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(read) <= 5
