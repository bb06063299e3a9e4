"""Retrievers and rankers trained at once are what a night alone would have trained, and what fails there is left to the night."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy import side_by_side
from deploy.halves import Halves, Side, halves_of
from deploy.steps import Steps
from tests.trainer.tables_world import build
from trainer.layers import Ranker
from trainer.tables import Tables

FACTS = {"dataset": "a test's"}


class Night:
    """Trains in `work`, and hears what the processes say."""

    def __init__(self, tables: Tables, work: Path) -> None:
        self.tables, self.work = tables, work
        self.said: list[str] = []
        self.steps: list[tuple[str, bool]] = []

    def side_by_side(self, names: dict[Side, list[str]]) -> None:
        side_by_side.train(self.tables.directory, FACTS, 0, names, self.work, self.said.append, self._watch)

    def halves(self) -> tuple[Halves, list[str]]:
        """And the steps that they run, rather than reuse."""
        ran: list[str] = []
        steps = Steps(self.work, lambda line: None, lambda name, seconds, reused: ran.append(name) if seconds is None else None)
        return Halves(self.tables, FACTS, steps, 0), ran

    def _watch(self, name: str, seconds: float | None, reused: bool) -> None:
        if not reused:
            self.steps.append((name, seconds is None))


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(build(tmp_path), tmp_path / "work")


def test_a_recipe_is_made_of_two_halves_and_recipes_share_them() -> None:
    assert halves_of(["adi+dsfm", "adi+shared_dnn", "popularity"]) == {
        "retriever": ["adi", "popularity"],
        "ranker": ["dsfm", "shared_dnn"],
    }


def test_both_sides_are_trained_and_the_night_finds_them(night: Night, tmp_path: Path) -> None:
    night.side_by_side({"retriever": ["popularity"], "ranker": ["shared_dnn"]})
    halves, ran = night.halves()
    model = halves.final_ranker("shared_dnn").model
    halves.final_retriever("popularity")
    assert ran == [], "all of it is there"
    trained = [f"{split}-{name}" for split in ("train", "valid", "test") for name in ("popularity", "shared_dnn")]
    begun = [name for name, begins in night.steps if begins]
    assert sorted(begun) == sorted(trained) and sorted(name for name, begins in night.steps if not begins) == sorted(trained)
    assert any("peak memory" in line for line in night.said)
    alone = Halves(night.tables, FACTS, Steps(tmp_path / "alone", lambda line: None), 0)
    assert _weights(model) == pytest.approx(_weights(alone.final_ranker("shared_dnn").model), abs=1e-6)


def test_a_process_that_fails_leaves_its_side_to_the_night_and_the_other_goes_on(night: Night) -> None:
    night.side_by_side({"retriever": ["popularity"], "ranker": ["no_such_ranker"]})
    assert night.said[-1] != "" and any("ended with 1" in line and "the night trains on" in line for line in night.said)
    halves, ran = night.halves()
    assert halves.finished("retriever", "popularity") and not halves.finished("ranker", "rates")
    halves.final_ranker("rates")
    assert ran == ["train-rates", "valid-rates", "test-rates"]


@pytest.mark.parametrize(
    ("cores", "names"),
    [
        ({0}, {"retriever": ["popularity"], "ranker": ["rates"]}),
        ({0, 1}, {"retriever": ["popularity"], "ranker": []}),
    ],
)
def test_no_process_is_started_where_none_would_gain_time(
    night: Night, monkeypatch: pytest.MonkeyPatch, cores: set[int], names: Any
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(side_by_side, "get_context", lambda kind: pytest.fail("a process was about to start"))
    night.side_by_side(names)
    assert night.said == [] and night.steps == []


def _weights(model: Ranker) -> list[float]:
    return [float(value) for one in model.parameters() for value in one.detach().to(torch.float64).flatten()]
