"""Every retriever by name: the plans that recipes refer to."""

from __future__ import annotations

from dataclasses import replace

from trainer import adi
from trainer.baselines import als, ease, lightgcn, neighbours, popularity
from trainer.fit import FitSettings
from trainer.plans import RetrieverPlan


def _adi_schedule(config: adi.ADIConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_rows=config.batch_size,
        learning_rate=config.learning_rate,
        negatives=config.uniform_negatives,
        self_training_percent=config.self_training_percent,
        self_training_step=config.self_training_step,
        patience=2,
    )


def _schedule(config: lightgcn.LightGCNConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_rows=config.batch_size,
        learning_rate=config.learning_rate,
        negatives=config.uniform_negatives,
        patience=2,
    )


RETRIEVERS: dict[str, RetrieverPlan] = {
    plan.name: plan
    for plan in (
        RetrieverPlan("adi", adi.ADIConfig(), adi.ADI, schedule=_adi_schedule, variants=adi.VARIANTS),
        RetrieverPlan(
            "adi_max", replace(adi.ADIConfig(), shared_experts=3), adi.ADI, schedule=_adi_schedule, variants=adi.VARIANTS
        ),
        RetrieverPlan("lightgcn", lightgcn.LightGCNConfig(), lightgcn.LightGCN, schedule=_schedule, variants=lightgcn.VARIANTS),
        RetrieverPlan("als", als.ALSConfig(), als.ALS, variants=als.VARIANTS),
        RetrieverPlan("ease", ease.EASEConfig(), ease.EASE, servable=False),
        RetrieverPlan("item_cf", neighbours.ItemCFConfig(), neighbours.ItemCF, servable=False),
        RetrieverPlan("item_cf_pooled", neighbours.ItemCFConfig(pooled=True), neighbours.ItemCF, servable=False),
        RetrieverPlan("user_cf", neighbours.UserCFConfig(), neighbours.UserCF, servable=False),
        RetrieverPlan("popularity", popularity.PopularityConfig(), popularity.Popularity, variants=popularity.VARIANTS),
    )
}
