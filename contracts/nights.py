"""What is kept of each night: one file a night, written again at every step, whole at any moment.

<home>/nights/20261127T020000.000000Z.json
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.files import write_bytes
from contracts.manifest import Gate

KEEP_NIGHTS = 90

Status = Literal["done", "held back", "failed", "unfinished"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NightStep(_Model):
    """seconds: as first measured, also where the step was reused."""

    name: str
    seconds: float
    reused: bool


class NightRecipe(_Model):
    """why: what kept the alias where it was; gates: those that were judged."""

    recipe: str
    bundle_id: str | None = None
    published: bool
    why: str | None = None
    gates: list[Gate] = []


class NightExperiment(_Model):
    """words: the decision and its reasons."""

    experiment: str
    words: str


class NightRecord(_Model):
    """status: done: every recipe published; held back: not every one; failed: the night itself, by `error`; unfinished: it
    runs, or it was killed after `updated`. running: the step in work."""

    night: str
    status: Status = "unfinished"
    started: datetime
    ended: datetime | None = None
    updated: datetime
    seconds: float | None = None
    running: str | None = None
    recipes: list[NightRecipe] = []
    steps: list[NightStep] = []
    experiments: list[NightExperiment] = []
    error: str | None = None

    @classmethod
    def begin(cls, now: datetime) -> NightRecord:
        return cls(night=f"{now.astimezone(UTC):%Y%m%dT%H%M%S.%f}Z", started=now, updated=now)

    def save(self, home: Path) -> None:
        write_bytes(_directory(home) / f"{self.night}.json", self.model_dump_json(indent=1).encode())


class DamagedNight(_Model):
    file: str
    why: str


def read_nights(home: Path, count: int) -> tuple[list[NightRecord], list[DamagedNight]]:
    """The `count` latest files, latest first: those that are records, and those that are not."""
    found: list[NightRecord] = []
    damaged: list[DamagedNight] = []
    for path in _files(home)[:count]:
        try:
            found.append(NightRecord.model_validate_json(path.read_bytes()))
        except FileNotFoundError:  # retired a moment ago
            continue
        except (ValidationError, OSError) as error:
            damaged.append(DamagedNight(file=path.name, why=str(error).splitlines()[0]))
    return found, damaged


def retire_nights(home: Path) -> None:
    for path in _files(home)[KEEP_NIGHTS:]:
        path.unlink()


def _files(home: Path) -> list[Path]:
    return sorted(_directory(home).glob("*.json"), reverse=True)


def _directory(home: Path) -> Path:
    return home / "nights"
