"""Every ranker by name: the plans that recipes refer to."""

from __future__ import annotations

from dataclasses import replace

from trainer import dfei, dsfm, dsfm_dfei
from trainer.baselines import adasparse, apg, dcnv2, pepnet, rates, separate_dnn, shared_dnn, star
from trainer.fit import FitSettings
from trainer.plans import RankerPlan

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
        RankerPlan("star", star.STARConfig(), star.STAR, _RANKING, variants=star.VARIANTS),
        RankerPlan("pepnet", pepnet.PEPNetConfig(), pepnet.PEPNet, _RANKING, variants=pepnet.VARIANTS),
        RankerPlan("adasparse", adasparse.AdaSparseConfig(), adasparse.AdaSparse, _RANKING, variants=adasparse.VARIANTS),
        RankerPlan("apg", apg.APGConfig(), apg.APG, _RANKING, variants=apg.VARIANTS),
        RankerPlan("dcnv2", dcnv2.DCNv2Config(), dcnv2.DCNv2, _RANKING, variants=dcnv2.VARIANTS),
        RankerPlan("rates", rates.RatesConfig(), rates.Rates, variants=rates.VARIANTS),
    )
}
