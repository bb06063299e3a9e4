"""Recipes: names -> models and how they are trained. A recipe pairs a retriever and a ranker, or is one half alone.

`adi+dsfm_dfei` is retriever + ranker, `popularity` a bare retriever, `dsfm:no_hidden_attn` a variant of a model; variants add up
from left to right, as in `adi:lt:sum`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from contracts.errors import BadInput
from trainer.plans import RankerPlan, RetrieverPlan, Variants
from trainer.rankers import RANKERS
from trainer.retrievers import RETRIEVERS
from trainer.with_trees import WithTrees

_NO_STATISTICS, _WITH_TREES = "no_statistics", "with_trees"


@dataclass(frozen=True)
class Recipe:
    """At least one half; each is a model's name with its variants."""

    name: str
    retriever: str | None
    ranker: str | None


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


def servable_recipe(name: str) -> Recipe:
    """As `recipe`, of one that a bundle can hold: its retriever is a pair of towers. Raises BadInput where it is not."""
    parsed = recipe(name)
    if parsed.retriever is None:
        raise BadInput(f"recipe {name!r} ranks but retrieves nothing", f"build adi+{name}")
    if not retriever_plan(parsed.retriever).servable:
        towers = ", ".join(one for one, plan in RETRIEVERS.items() if plan.servable)
        raise BadInput(
            f"recipe {name!r} cannot be served: {parsed.retriever} compares whole histories, which no index holds",
            f"these can be: {towers}; `mdrec evaluate` measures all",
        )
    return parsed


def ranker_plan(name: str) -> RankerPlan:
    plan = _look_up(name, RANKERS, "ranker")
    common: Variants = {one: {} for one in _common_variants(plan)}
    varied: RankerPlan = replace(plan, name=name, config=_vary(name, plan.config, {**plan.variants, **common}))
    asked = name.split(":")[1:]
    if _WITH_TREES in asked:
        varied = replace(varied, build=_with_trees(varied.build))
    return replace(varied, build=_unread(varied.build)) if _NO_STATISTICS in asked else varied


def retriever_plan(name: str) -> RetrieverPlan:
    plan = _look_up(name, RETRIEVERS, "retriever")
    config = _vary(name, plan.config, plan.variants)
    settings = plan.schedule(config) if plan.schedule else plan.settings
    # The statistics of the training rows' end know their own clicks, and towers trained on them learn nothing else (the
    # checkerboard falls from precision 1 to .27); what towers need of them is the popularity dimension.
    varied: RetrieverPlan = replace(plan, name=name, config=config, settings=settings, build=_unread(plan.build))
    return varied


def _unread(build: Callable[..., Any]) -> Callable[..., Any]:
    return lambda schema, *given: build(schema.without_statistics(), *given)


def _common_variants(plan: RankerPlan | RetrieverPlan) -> tuple[str, ...]:
    """What every ranker has; trees stand beside those that learn by gradients."""
    return (_NO_STATISTICS,) if hasattr(plan.build, "fit_whole") else (_NO_STATISTICS, _WITH_TREES)


def _with_trees(build: Callable[..., Any]) -> Callable[..., Any]:
    return lambda schema, *given: WithTrees(build(schema, *given), schema)


def known() -> list[str]:
    """Every model, each followed by its variants; a recipe joins a retriever and a ranker by '+'."""
    names: list[str] = []
    for plans in (RETRIEVERS, RANKERS):
        for name, plan in plans.items():
            variants = (*plan.variants, *(_common_variants(plan) if plans is RANKERS else ()))
            names += [name, *(f"{name}:{variant}" for variant in variants)]
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
