"""The two halves of a recipe, trained once a night each, however many recipes share them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from deploy.steps import Steps
from trainer.checkpoint import WEIGHTS
from trainer.fit import catch_up
from trainer.recipes import ranker_plan, recipe
from trainer.tables import Tables
from trainer.train import (
    TrainedRanker,
    TrainedRetriever,
    load_ranker,
    load_retriever,
    sensitivity,
    train_ranker,
    train_retriever,
)

Side = Literal["retriever", "ranker"]

HELD_OUT = ("valid", "test")  # in the order of time
_BEFORE = {"valid": "train", "test": "valid"}


def halves_of(recipes: Iterable[str]) -> dict[Side, list[str]]:
    """The names that recipes are made of, each once."""
    parsed = [recipe(name) for name in recipes]
    return {
        "retriever": list(dict.fromkeys(one.retriever for one in parsed if one.retriever)),
        "ranker": list(dict.fromkeys(one.ranker for one in parsed if one.ranker)),
    }


class Halves:
    """Trains by name. `judged_*` has seen all but the test and is what gates measure; `final_*` then takes one pass over the
    test as well and is what serves."""

    def __init__(self, tables: Tables, facts: Mapping[str, Any], steps: Steps, seed: int) -> None:
        self._tables = tables
        self._facts = {**facts, "seed": seed}
        self._steps = steps
        self._seed = seed

    def train(self, side: Side, name: str) -> None:
        """Through the test, so that loading it later only reads."""
        (self._retriever if side == "retriever" else self._ranker)(name, "test")

    def finished(self, side: Side, name: str) -> bool:
        return self._steps.finished(f"test-{name}", self._of(name))

    def judged_retriever(self, name: str) -> TrainedRetriever:
        return load_retriever(name, self._tables, self._seed, self._retriever(name, "valid"))

    def judged_ranker(self, name: str) -> TrainedRanker:
        return load_ranker(name, self._tables, self._seed, self._ranker(name, "valid"))

    def final_retriever(self, name: str) -> TrainedRetriever:
        return load_retriever(name, self._tables, self._seed, self._retriever(name, "test"))

    def final_ranker(self, name: str) -> TrainedRanker:
        return load_ranker(name, self._tables, self._seed, self._ranker(name, "test"))

    def _retriever(self, name: str, through: str) -> Path:
        """The retriever trained through a split: early-stopped on the training window, then one pass a held-out split."""
        if through == "train":

            def train(path: Path) -> None:
                train_retriever(name, self._tables, self._seed, path)

            return self._steps.run(f"train-{name}", self._of(name), train, resumable=True)
        before = self._retriever(name, _BEFORE[through])

        def learn(path: Path) -> None:
            _copy(before, path)
            half = load_retriever(name, self._tables, self._seed, path)
            catch_up(half.model, self._tables, through, half.settings, path)

        return self._steps.run(f"{through}-{name}", self._of(name), learn)

    def _ranker(self, name: str, through: str) -> Path:
        if through == "train":
            base = self._attribution() if ranker_plan(name).selection else None

            def train(path: Path) -> None:
                train_ranker(name, self._tables, self._seed, path, base=base)

            return self._steps.run(f"train-{name}", self._of(name), train, resumable=True)
        before = self._ranker(name, _BEFORE[through])

        def learn(path: Path) -> None:
            _copy(before, path)
            half = load_ranker(name, self._tables, self._seed, path)
            catch_up(half.model, self._tables, through, half.settings, path)

        return self._steps.run(f"{through}-{name}", self._of(name), learn)

    def _attribution(self) -> Path:
        def work(path: Path) -> None:
            sensitivity(self._tables, self._seed, path)

        return self._steps.run("attribution", self._facts, work, resumable=True)

    def _of(self, name: str) -> dict[str, Any]:
        return {**self._facts, "name": name}


def _copy(source: Path, target: Path) -> None:
    """What a half is loaded from: weights and JSON, no checkpoints."""
    for path in (source / WEIGHTS, *source.glob("*.json")):
        if path.name not in ("done.json", "progress.json"):
            shutil.copy2(path, target / path.name)
