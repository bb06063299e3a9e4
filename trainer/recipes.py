"""Recipes: names -> models and how they are trained. A recipe pairs a retriever and a ranker, or is one half alone.

`adi+dsfm_dfei` is retriever + ranker, `popularity` a bare retriever, `dsfm:no_hidden_attn` a variant of a model; variants add up
from left to right, as in `adi:lt:sum`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from contracts.errors import BadInput
from contracts.schema import FeatureSchema
from trainer import adi, dfei, dsfm, dsfm_dfei
from trainer.baselines import popularity, rates, separate_dnn, shared_dnn
from trainer.fit import FitSettings
from trainer.layers import Ranker
from trainer.two_tower import TwoTower

Variants = Mapping[str, Mapping[str, Any] | Callable[[Any], Any]]  # changed fields, or base config -> config
Selection = Literal["top", "last", "all"]


@dataclass(frozen=True)
class RankerPlan:
    """build(schema, config, sensitive features). selection: which end of the attribution feeds it, None: it reads none."""

    name: str
    config: Any
    build: Callable[[FeatureSchema, Any, Sequence[str]], Ranker]
    settings: FitSettings = field(default_factory=FitSettings)
    remembers: bool = False
    variants: Variants = field(default_factory=dict)

    @property
    def selection(self) -> Selection | None:
        reads = self.remembers and not getattr(self.config, "base_only", False)
        return self.config.selection if reads else None


@dataclass(frozen=True)
class RetrieverPlan:
    name: str
    config: Any
    build: Callable[[FeatureSchema, Any], TwoTower]
    settings: FitSettings = field(default_factory=FitSettings)
    variants: Variants = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """At least one half; each is a model's name with its variants."""

    name: str
    retriever: str | None
    ranker: str | None


# KuaiRand-Pure, shared DNN: validation AUC .666 .683 .675 .669 over four epochs (ids overfit from the third on, so early stopping
# decides), and embedding L2 of 1e-6, 1e-5, 1e-4 gives a test AUC of .7316, .7319, .7310: it does not matter there.
_RANKING = FitSettings(epochs=30, batch_rows=1024, learning_rate=1e-3, patience=2, chance=0.52)

RANKERS: dict[str, RankerPlan] = {
    plan.name: plan
    for plan in (
        RankerPlan("dsfm", dsfm.DSFMConfig(), dsfm.DSFM, _RANKING, remembers=True, variants=dsfm.VARIANTS),
        RankerPlan("dfei", dfei.DFEIConfig(), dfei.DFEI, replace(_RANKING, batch_rows=512), variants=dfei.VARIANTS),
        RankerPlan(
            "dsfm_dfei",
            dsfm_dfei.DSFMDFEIConfig(),
            dsfm_dfei.DSFMDFEI,
            _RANKING,
            remembers=True,
            variants=dsfm_dfei.VARIANTS,
        ),
        RankerPlan("shared_dnn", shared_dnn.SharedDNNConfig(), shared_dnn.SharedDNN, _RANKING, variants=shared_dnn.VARIANTS),
        RankerPlan(
            "separate_dnn", shared_dnn.SharedDNNConfig(), separate_dnn.SeparateDNN, _RANKING, variants=separate_dnn.VARIANTS
        ),
        RankerPlan("rates", rates.RatesConfig(), rates.Rates, variants=rates.VARIANTS),
    )
}


def _adi_settings(config: adi.ADIConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_rows=config.batch_size,
        learning_rate=config.learning_rate,
        negatives=config.uniform_negatives,
        self_training_percent=config.self_training_percent,
        self_training_step=config.self_training_step,
        patience=3,
    )


RETRIEVERS: dict[str, RetrieverPlan] = {
    plan.name: plan
    for plan in (
        RetrieverPlan("adi", adi.ADIConfig(), adi.ADI, variants=adi.VARIANTS),
        RetrieverPlan("adi_max", replace(adi.ADIConfig(), shared_experts=3), adi.ADI, variants=adi.VARIANTS),
        RetrieverPlan("popularity", popularity.PopularityConfig(), popularity.Popularity, variants=popularity.VARIANTS),
    )
}


def recipe(name: str) -> Recipe:
    """Parse and check a name. Raises BadInput naming what is unknown and what comes close."""
    first, plus, second = name.partition("+")
    if plus:
        retriever_plan(first)
        ranker_plan(second)
        return Recipe(name, first, second)
    model = _model_of(first)
    if model in RANKERS:
        ranker_plan(first)
        return Recipe(name, None, first)
    retriever_plan(first)
    return Recipe(name, first, None)


def ranker_plan(name: str) -> RankerPlan:
    plan = _look_up(name, RANKERS, "ranker")
    varied: RankerPlan = replace(plan, name=name, config=_vary(name, plan.config, plan.variants))
    return varied


def retriever_plan(name: str) -> RetrieverPlan:
    plan = _look_up(name, RETRIEVERS, "retriever")
    config = _vary(name, plan.config, plan.variants)
    settings = _adi_settings(config) if isinstance(config, adi.ADIConfig) else plan.settings
    varied: RetrieverPlan = replace(plan, name=name, config=config, settings=settings)
    return varied


def known() -> list[str]:
    """Every model, each followed by its variants; a recipe joins a retriever and a ranker by '+'."""
    names: list[str] = []
    for plans in (RETRIEVERS, RANKERS):
        for name, plan in plans.items():
            names += [name, *(f"{name}:{variant}" for variant in plan.variants)]
    return names


def _look_up(name: str, plans: Mapping[str, Any], half: str) -> Any:
    model = _model_of(name)
    if model in plans:
        return plans[model]
    every = known()
    close = difflib.get_close_matches(name, every, n=3) or difflib.get_close_matches(model, plans, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(plans)}"
    raise BadInput(f"unknown {half} {name!r}", f"{hint} `mdrec evaluate --list` names all")


def _vary(name: str, config: Any, variants: Variants) -> Any:
    for variant in name.split(":")[1:]:
        if variant not in variants:
            close = difflib.get_close_matches(variant, variants, n=3) or list(variants)
            remedy = f"it has {', '.join(close)}" if close else "it has none"
            raise BadInput(f"{_model_of(name)} has no variant {variant!r}", remedy)
        change = variants[variant]
        config = change(config) if callable(change) else replace(config, **change)
    return config


def _model_of(name: str) -> str:
    return name.partition(":")[0]
