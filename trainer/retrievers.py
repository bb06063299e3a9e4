"""Every retriever by name: the plans that recipes refer to."""

from __future__ import annotations

from dataclasses import replace

from trainer import adi, neural_towers
from trainer.baselines import (
    als,
    cross_stitch,
    dnn,
    dnn_single,
    ease,
    lightgcn,
    mmoe_towers,
    neighbours,
    ple_towers,
    popularity,
    shared_bottom_towers,
)
from trainer.factors import ALSConfig
from trainer.fit import FitSettings
from trainer.neural_towers import TowerConfig
from trainer.plans import RetrieverPlan, Variants


def _schedule(config: TowerConfig | lightgcn.LightGCNConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_rows=config.batch_size,
        learning_rate=config.learning_rate,
        negatives=config.uniform_negatives,
        patience=1,
    )


def _adi_schedule(config: adi.ADIConfig) -> FitSettings:
    return replace(
        _schedule(config),
        self_training_percent=config.self_training_percent,
        self_training_step=config.self_training_step,
    )


def _towers(
    name: str,
    build: type[neural_towers.NeuralTowers | dnn_single.DNNSingle],
    config: TowerConfig = TowerConfig(),
    variants: Variants = neural_towers.VARIANTS,
) -> RetrieverPlan:
    """A comparator of ADI: its embedding, loss, graph, sizes and budget are ADI's."""
    return RetrieverPlan(name, config, build, schedule=_schedule, variants=variants)


RETRIEVERS: dict[str, RetrieverPlan] = {
    plan.name: plan
    for plan in (
        RetrieverPlan("adi", adi.ADIConfig(), adi.ADI, schedule=_adi_schedule, variants=adi.VARIANTS),
        RetrieverPlan(
            "adi_max", replace(adi.ADIConfig(), shared_experts=3), adi.ADI, schedule=_adi_schedule, variants=adi.VARIANTS
        ),
        _towers("dnn", dnn.DNN),
        _towers("dnn_single", dnn_single.DNNSingle, dnn_single.CONFIG, dnn_single.VARIANTS),
        _towers("shared_bottom_towers", shared_bottom_towers.SharedBottomTowers),
        _towers("cross_stitch", cross_stitch.CrossStitchTowers),
        _towers("mmoe_towers", mmoe_towers.MMoETowers, mmoe_towers.MMoETowersConfig()),
        _towers("ple_towers", ple_towers.PLETowers, ple_towers.PLETowersConfig()),
        RetrieverPlan("lightgcn", lightgcn.LightGCNConfig(), lightgcn.LightGCN, schedule=_schedule, variants=lightgcn.VARIANTS),
        RetrieverPlan("als", ALSConfig(), als.ALS, variants=als.VARIANTS),
        RetrieverPlan("ease", ease.EASEConfig(), ease.EASE, servable=False, seeded=False),
        RetrieverPlan("item_cf", neighbours.ItemCFConfig(), neighbours.ItemCF, servable=False, seeded=False),
        RetrieverPlan("item_cf_pooled", neighbours.ItemCFConfig(pooled=True), neighbours.ItemCF, servable=False, seeded=False),
        RetrieverPlan("user_cf", neighbours.UserCFConfig(), neighbours.UserCF, servable=False, seeded=False),
        RetrieverPlan(
            "popularity", popularity.PopularityConfig(), popularity.Popularity, seeded=False, variants=popularity.VARIANTS
        ),
    )
}
