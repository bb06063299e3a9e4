"""Every ranker by name: the plans that recipes refer to."""

from __future__ import annotations

from trainer import dfei, dsfm, dsfm_dfei, signals
from trainer.baselines import (
    adasparse,
    aitm,
    apg,
    dcnv2,
    hinet,
    hmoe,
    lightgbm,
    mmoe,
    pepnet,
    ple,
    rates,
    separate_dnn,
    shared_bottom,
    shared_dnn,
    star,
)
from trainer.baselines.experts import ExpertsConfig
from trainer.fit import FitSettings
from trainer.plans import RankerPlan

# KuaiRand-Pure without its last two days, trained to 30 April, measured on 1 and 2 May, mean AUC of tabs 0, 1, 2, 4, 6, two
# seeds. Shared DNN with statistics, two epochs whose rate falls from 2e-3 to 0, 8-d, .9 of ids unknown: batches of 1024 rows
# .694, 512 .697, 256 .699 (MMoE at 512 .694; PEPNet .690 at both; DFEI .702 at 256). One epoch .697, 4-d .691, 16-d .698, half
# of ids unknown .697, dropout .4 .699, 4e-3 at 512 .698, embedding L2 1e-3 .693. A constant rate, stopped early: .694.
_RANKING = FitSettings(epochs=2, batch_rows=256, learning_rate=2e-3, patience=2, chance=0.52, id_dropout=0.9, cools=True)

# A DNN a domain has few rows each, and what only pairs of ids tell (the checkerboard) is learned in many epochs.
_UNHURRIED = FitSettings(epochs=30, batch_rows=1024, learning_rate=2e-3, patience=2, chance=0.52)

RANKERS: dict[str, RankerPlan] = {
    plan.name: plan
    for plan in (
        RankerPlan("dsfm", dsfm.DSFMConfig(), dsfm.DSFM, _RANKING, remembers=True, variants=dsfm.VARIANTS),
        RankerPlan("dfei", dfei.DFEIConfig(), dfei.DFEI, _RANKING, variants=dfei.VARIANTS),
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
            "separate_dnn",
            shared_dnn.SharedDNNConfig(),
            separate_dnn.SeparateDNN,
            _UNHURRIED,
            variants=separate_dnn.VARIANTS,
        ),
        RankerPlan("shared_bottom", ExpertsConfig(), shared_bottom.SharedBottom, _RANKING, variants=shared_bottom.VARIANTS),
        RankerPlan("mmoe", ExpertsConfig(), mmoe.MMoE, _RANKING, variants=mmoe.VARIANTS),
        RankerPlan("ple", ExpertsConfig(), ple.PLE, _RANKING, variants=ple.VARIANTS),
        RankerPlan("hinet", hinet.HiNetConfig(), hinet.HiNet, _RANKING, variants=hinet.VARIANTS),
        RankerPlan("aitm", ExpertsConfig(), aitm.AITM, _RANKING, variants=aitm.VARIANTS),
        RankerPlan("hmoe", ExpertsConfig(), hmoe.HMoE, _RANKING, variants=hmoe.VARIANTS),
        RankerPlan("star", star.STARConfig(), star.STAR, _RANKING, variants=star.VARIANTS),
        RankerPlan("pepnet", pepnet.PEPNetConfig(), pepnet.PEPNet, _RANKING, variants=pepnet.VARIANTS),
        RankerPlan("adasparse", adasparse.AdaSparseConfig(), adasparse.AdaSparse, _RANKING, variants=adasparse.VARIANTS),
        RankerPlan("apg", apg.APGConfig(), apg.APG, _RANKING, variants=apg.VARIANTS),
        RankerPlan("dcnv2", dcnv2.DCNv2Config(), dcnv2.DCNv2, _RANKING, variants=dcnv2.VARIANTS),
        RankerPlan("lightgbm", lightgbm.LightGBMConfig(), lightgbm.LightGBM, variants=lightgbm.VARIANTS),
        RankerPlan("signals", signals.SignalsConfig(), signals.Signals, FitSettings(epochs=8, learning_rate=3e-3)),
        RankerPlan("rates", rates.RatesConfig(), rates.Rates, seeded=False, variants=rates.VARIANTS),
    )
}
