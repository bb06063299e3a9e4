"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): experts that all domains share, a gate and a tower per domain.

    f_d(x) = sum_i softmax(W_d x)_i expert_i(x),   logit = tower_d(f_d(x))      (section 4.2, a domain for a task)

A row runs through its own domain's gate and tower only: its cost does not depend on the number of domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.baselines.experts import ExpertRanker, ExpertsConfig, mixed, side_by_side
from trainer.layers import Inputs

VARIANTS: dict[str, dict[str, Any]] = {}


class MMoE(ExpertRanker):
    def __init__(self, schema: FeatureSchema, config: ExpertsConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema, config)
        width = self.bottom.width
        self.shared_experts = self.experts(width, config.experts)
        self.gate = self.gates(width, config.experts)
        self.tower = self.towers(config.expert[-1])

    def forward(self, inputs: Inputs) -> Tensor:
        x_BN = self.bottom_of(inputs)
        f_BW = mixed(side_by_side(self.shared_experts, x_BN), self.gate(x_BN, inputs.domain))
        logit_B1: Tensor = self.tower(self.dropout(f_BW), inputs.domain)
        return logit_B1.squeeze(1)
