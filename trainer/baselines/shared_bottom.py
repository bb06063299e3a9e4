"""SharedBottom, hard parameter sharing (Caruana, Multitask Learning, 1997): one network below, a tower per domain above.

    logit = tower_d(bottom(e))

The cost of a row does not depend on the number of domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.baselines.experts import ExpertRanker, ExpertsConfig
from trainer.layers import Inputs

VARIANTS: dict[str, dict[str, Any]] = {}


class SharedBottom(ExpertRanker):
    """The bottom is all of shared_dnn but its last hidden layer: the first layers and one `expert`."""

    def __init__(self, schema: FeatureSchema, config: ExpertsConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema, config)
        self.only_expert = self.expert(self.bottom.width)
        self.tower = self.towers(self.only_expert.width)

    def forward(self, inputs: Inputs) -> Tensor:
        logit_B1: Tensor = self.tower(self.dropout(self.only_expert(self.bottom_of(inputs))), inputs.domain)
        return logit_B1.squeeze(1)
