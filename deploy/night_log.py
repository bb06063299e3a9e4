"""The night keeps a diary (contracts/nights.py): every step as it begins and ends, every recipe, and how it all ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from contracts.manifest import Gate
from contracts.nights import NightExperiment, NightRecipe, NightRecord, NightStep, retire_nights


class NightLog:
    def __init__(self, home: Path, now: Callable[[], datetime]) -> None:
        self._home, self._now = home, now
        self.record = NightRecord.begin(now())
        self._begun: list[str] = []  # a step may run others; the last is shown of several at once

    def step(self, name: str, seconds: float | None, reused: bool) -> None:
        """seconds: None where the step begins."""
        if seconds is None:
            self._begun.append(name)
        else:
            if name in self._begun:  # not where it is reused
                self._begun.remove(name)
            if all(one.name != name for one in self.record.steps):
                self.record.steps.append(NightStep(name=name, seconds=seconds, reused=reused))
        self.record.running = self._begun[-1] if self._begun else None
        self._save()

    def published(self, recipe: str, bundle_id: str, gates: Sequence[Gate]) -> None:
        self._recipe(NightRecipe(recipe=recipe, bundle_id=bundle_id, published=True, gates=list(gates)))

    def held_back(self, recipe: str, why: str, gates: Sequence[Gate]) -> None:
        self._recipe(NightRecipe(recipe=recipe, published=False, why=why, gates=list(gates)))

    def experiment(self, key: str, words: str) -> None:
        self.record.experiments.append(NightExperiment(experiment=key, words=words))
        self._save()

    def end(self, error: BaseException | None) -> None:
        record = self.record
        record.ended = self._now()
        record.seconds = (record.ended - record.started).total_seconds()
        record.error = None if error is None else f"{type(error).__name__}: {error}"
        held = [one for one in record.recipes if not one.published]
        record.status = "failed" if error is not None else "held back" if held else "done"
        if error is None:
            record.running = None  # of a failed night, the step that failed
        self._save()

    def _recipe(self, one: NightRecipe) -> None:
        self.record.recipes.append(one)
        self._save()

    def _save(self) -> None:
        self.record.updated = self._now()
        self.record.save(self._home)


@contextmanager
def diary(home: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[NightLog]:
    """The diary of one night, ended however the night ends."""
    log = NightLog(home, now)
    log.record.save(home)
    retire_nights(home)
    try:
        yield log
    except BaseException as error:
        log.end(error)
        raise
    log.end(None)
