"""A progress bar where a person watches, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(name: str, total: int) -> Iterator[Bar]:
    """total: steps."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield Bar(shown, name, total)


class Bar:
    def __init__(self, shown: Progress, name: str, total: int) -> None:
        self._shown = shown
        self._task = shown.add_task(name, total=total)

    def advance(self) -> None:
        self._shown.advance(self._task)

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if self._shown.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self._shown.console.print(line)
