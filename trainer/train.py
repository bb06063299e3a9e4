"""A half of a recipe, from its name to a trained model and back from disk.

A directory holds weights.safetensors, report.json, and for models with a memory of sensitive features sensitive.json. The base
DNN that finds those stands in a directory that several models may share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch

from contracts.files import exclusive, read_json, write_json
from trainer.attribution import DomainSensitivity, attribute, select
from trainer.baselines.shared_dnn import SharedDNN
from trainer.checkpoint import WEIGHTS, load_weights
from trainer.fit import FitReport, FitSettings, fit_ranker, fit_retriever
from trainer.layers import Ranker
from trainer.plans import RankerPlan, RetrieverPlan
from trainer.recipes import ranker_plan, retriever_plan
from trainer.tables import Tables
from trainer.two_tower import Retriever, TwoTower

_BASE = "shared_dnn:no_statistics"  # what is counted by domain differs by domain: it tells of traffic, not of tastes
_SENSITIVE = "sensitive.json"
_ATTRIBUTION = "attribution.json"
_REPORT = "report.json"


@dataclass(frozen=True)
class TrainedRanker:
    """sensitive: the features of its memory, none for most models."""

    name: str
    model: Ranker
    report: FitReport
    settings: FitSettings
    sensitive: list[str]


@dataclass(frozen=True)
class TrainedRetriever:
    name: str
    model: Retriever
    report: FitReport
    settings: FitSettings

    @property
    def towers(self) -> TwoTower:
        """The model of a servable recipe (trainer/recipes.py)."""
        if not isinstance(self.model, TwoTower):
            raise TypeError(f"{self.name} is no pair of towers")
        return self.model


def train_ranker(
    name: str, tables: Tables, seed: int, directory: Path, base: Path | None = None, epochs: int | None = None
) -> TrainedRanker:
    """Resumes a run that was killed under the same directory. base: of the attribution, by default directory/base; epochs: at
    most so many."""
    plan = ranker_plan(name)
    settings = _settings(plan, seed, epochs)
    sensitive: list[str] = []
    if plan.selection is not None:
        base = base or directory / "base"
        with exclusive(base / "lock"):  # processes that share it train it once
            sensitive = _sensitive(plan, tables, seed, directory, base)
    torch.manual_seed(seed)
    model = plan.build(tables.schema, plan.config, sensitive)
    report = fit_ranker(model, tables, settings, directory)
    write_json(directory / _REPORT, asdict(report))
    return TrainedRanker(name, model, report, settings, sensitive)


def train_retriever(name: str, tables: Tables, seed: int, directory: Path, epochs: int | None = None) -> TrainedRetriever:
    plan = retriever_plan(name)
    settings = _settings(plan, seed, epochs)
    torch.manual_seed(seed)
    model = plan.build(tables.schema, plan.config)
    report = fit_retriever(model, tables, settings, directory)
    write_json(directory / _REPORT, asdict(report))
    return TrainedRetriever(name, model, report, settings)


def _settings(plan: RankerPlan | RetrieverPlan, seed: int, epochs: int | None) -> FitSettings:
    return replace(plan.settings, seed=seed, epochs=min(plan.settings.epochs, epochs or plan.settings.epochs))


def load_ranker(name: str, tables: Tables, seed: int, directory: Path) -> TrainedRanker:
    """What train_ranker left in `directory`, on the CPU, in eval mode. Raises BundleError when it is not whole."""
    plan = ranker_plan(name)
    sensitive = read_json(directory / _SENSITIVE) if plan.selection else []
    model = plan.build(tables.schema, plan.config, sensitive)
    model.prepare(tables)
    load_weights(model, directory / WEIGHTS)
    model.eval()
    return TrainedRanker(name, model, FitReport(**read_json(directory / _REPORT)), replace(plan.settings, seed=seed), sensitive)


def load_retriever(name: str, tables: Tables, seed: int, directory: Path) -> TrainedRetriever:
    plan = retriever_plan(name)
    model = plan.build(tables.schema, plan.config)
    load_weights(model, directory / WEIGHTS)
    model.eval()
    return TrainedRetriever(name, model, FitReport(**read_json(directory / _REPORT)), replace(plan.settings, seed=seed))


def sensitivity(tables: Tables, seed: int, base: Path) -> list[DomainSensitivity]:
    """The attribution of a shared DNN that is trained for it; both are kept under `base` and read from there next time."""
    path = base / _ATTRIBUTION
    if path.is_file():
        return [DomainSensitivity(**one) for one in read_json(path)]
    model = train_ranker(_BASE, tables, seed, base).model.cpu()
    report = attribute(cast(SharedDNN, model), tables, seed=seed)
    write_json(path, [asdict(one) for one in report])
    return report


def found_by(tables: Tables, seed: int, base: Path) -> tuple[SharedDNN, list[DomainSensitivity]]:
    """The base model and the attribution that chose the features of a ranker that was trained with the same `base`."""
    return cast(SharedDNN, load_ranker(_BASE, tables, seed, base).model), sensitivity(tables, seed, base)


def _sensitive(plan: RankerPlan, tables: Tables, seed: int, directory: Path, base: Path) -> list[str]:
    if plan.selection is None:
        return []
    names = select(sensitivity(tables, seed, base), mode=plan.selection)
    write_json(directory / _SENSITIVE, names)
    return names
