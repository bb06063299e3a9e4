"""HMoE, hybrid of implicit and explicit mixture of experts (Li et al., Improving Multi-Scenario Learning to Rank in
E-commerce by Exploiting Task Relationships in the Label Space, CIKM 2020).

Implicit, in the feature space: MMoE, a score s_j = tower_j(f_j(x)) of every domain for every row. Explicit, in the label
space: the row's domain d asks all domains what they would say,

    p = sum_j softmax(V_d x)_j sigmoid(s_j),

and the gradient stops at s_j for j != d (task-constrained back-propagation): a row teaches its own domain's gates and tower,
and the shared experts through them, and no other domain's.

Decision: probabilities are mixed, not logits, labels being the space of the mixture; it is done by logarithms, so that a
confident p loses no digits. Each row runs through D gates and D towers behind the shared experts: narrow, and without a
gradient but for its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.baselines.experts import ExpertsConfig, mixed, side_by_side
from trainer.baselines.mmoe import MMoE
from trainer.layers import Inputs

VARIANTS: dict[str, dict[str, Any]] = {}


class HMoE(MMoE):
    def __init__(self, schema: FeatureSchema, config: ExpertsConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema, config)
        self.trust = self.gates(self.bottom.width, self.domains)

    def forward(self, inputs: Inputs) -> Tensor:
        x_BN, domain_R = self.bottom_of(inputs), inputs.domain
        expert_BXW = side_by_side(self.shared_experts, x_BN)
        own_B1 = self.tower(self.dropout(mixed(expert_BXW, self.gate(x_BN, domain_R))), domain_R)
        is_own_RD = domain_R[:, None] == torch.arange(self.domains, device=domain_R.device)
        score_BD = torch.where(is_own_RD, own_B1, self._scores(x_BN, expert_BXW))
        weight_BD = F.log_softmax(self.trust(x_BN, domain_R), dim=1)
        yes_B, no_B = ((weight_BD + F.logsigmoid(one)).logsumexp(dim=1) for one in (score_BD, -score_BD))
        return yes_B - no_B

    @torch.no_grad()
    def _scores(self, x_BN: Tensor, expert_BXW: Tensor) -> Tensor:
        """score_BD of every domain, as a fact to learn from, not as something to change."""
        gate_BDX = torch.softmax(side_by_side(self.gate.towers, x_BN), dim=2)
        return side_by_side(self.tower.towers, torch.bmm(gate_BDX, expert_BXW)).squeeze(2)
