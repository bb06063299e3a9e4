"""A ranker and gradient-boosted trees on the same rows: logit = (network + trees) / 2.

Networks and trees err elsewhere: KuaiRand-Pure, last training days, mean AUC of tabs 0, 1, 2, 4, 6: DFEI .702, LightGBM .705, the
mean of both logits .709 with any weight from .35 to .5; two networks or two forests give .001. Every ranker has the variant
`with_trees`, the compared ones too. The trees cost a request what they cost alone, and stand in the same ONNX graph.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.baselines.lightgbm import LightGBM, LightGBMConfig
from trainer.dfei import WithUserVectors
from trainer.fit import FitSettings
from trainer.layers import FieldEmbedding, Inputs, Ranker
from trainer.tables import Batch, Tables


class WithTrees(Ranker):
    """The network is fitted as it is alone; the trees after it, in one call."""

    def __init__(self, network: Ranker, schema: FeatureSchema) -> None:
        super().__init__(schema)
        self.network = network
        self.trees = LightGBM(schema, LightGBMConfig())
        self.domain_pure, self.user_vectors = network.domain_pure, network.user_vectors

    @property
    def embedding(self) -> FieldEmbedding:  # type: ignore[override]
        return self.network.embedding

    @property
    def domain_vectors(self) -> Tensor:
        return cast(WithUserVectors, self.network).domain_vectors

    def encode(self, inputs: Inputs) -> Tensor:
        u_BK: Tensor = cast(WithUserVectors, self.network).encode(inputs)
        return u_BK

    def forward(self, inputs: Inputs) -> Tensor:
        logit_B: Tensor = (self.network(inputs) + self.trees(inputs)) / 2
        return logit_B

    def training_loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self.network.training_loss(batch)
        return loss

    def fit_beside(self, tables: Tables, settings: FitSettings) -> None:
        self.trees.fit_whole(tables, settings)

    def prepare(self, tables: Tables) -> None:
        self.network.prepare(tables)

    def start_epoch(self) -> None:
        self.network.start_epoch()

    def serving_inputs(self, batch: Batch) -> Inputs:
        return self.network.serving_inputs(batch)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return self.network.parameter_groups(lr)
