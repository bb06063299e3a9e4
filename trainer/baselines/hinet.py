"""HiNet, hierarchical information extraction (arXiv 2303.06095): what is shared, the domain's own, and what other domains know.

    SEI(x)   = sum_k softmax(W x)_k sub_k(x)               sub-expert integration: a mixture of small experts
    shared   = SEI_s(x),   own_i = SEI_i(x)
    others_i = sum_{j != i} a_ij own_j,   a_i = softmax_{j != i}(W emb(i))          scenario-aware attentive network (SAN)
    logit    = tower_i([shared; own_i; others_i])

The paper's second stage, customised gate control over several tasks, is a tower here: there is one task. Decisions: two
sub-experts of half the width in a domain's SEI, since SAN makes each row run through all D of them: D narrow layers, the rest
of the cost does not depend on the number of domains. SAN reads the embedding of the domain that is also a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.baselines.experts import ExpertRanker, ExpertsConfig, mixed, of_own_domain, side_by_side
from trainer.layers import Inputs

VARIANTS: dict[str, dict[str, Any]] = {}
_NOBODY = -1e9  # finite, so that a single domain, which has no other, attends to itself and not to NaN


@dataclass(frozen=True)
class HiNetConfig(ExpertsConfig):
    """own_expert, own_experts: widths and number of the sub-experts of each domain."""

    own_expert: tuple[int, ...] = (32,)
    own_experts: int = 2


class HiNet(ExpertRanker):
    def __init__(self, schema: FeatureSchema, config: HiNetConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema, config)
        width, own, number = self.bottom.width, config.own_expert, config.own_experts
        self.shared_experts = self.experts(width, config.experts)
        self.shared_gate = nn.Linear(width, config.experts)
        self.own_experts = self.experts(width, number * self.domains, own)
        self.own_gates = nn.Linear(width, number * self.domains)
        self.relation = nn.Linear(config.dim, self.domains)
        self.tower = self.towers(config.expert[-1] + 2 * own[-1])

    def forward(self, inputs: Inputs) -> Tensor:
        x_BN, domain_R = self.bottom_of(inputs), inputs.domain
        shared_BW = mixed(side_by_side(self.shared_experts, x_BN), self.shared_gate(x_BN))
        every_BDW = self._own(x_BN)
        others_BW = (self._attention()[domain_R][:, :, None] * every_BDW).sum(dim=1)
        known_BW = torch.cat([shared_BW, of_own_domain(every_BDW, domain_R), others_BW], dim=1)
        logit_B1: Tensor = self.tower(self.dropout(known_BW), domain_R)
        return logit_B1.squeeze(1)

    def _own(self, x_BN: Tensor) -> Tensor:
        """own_BDW: every domain's SEI."""
        each = (self.domains, len(self.own_experts) // self.domains)
        sub_BDXW = torch.unflatten(side_by_side(self.own_experts, x_BN), 1, each)
        return mixed(sub_BDXW, torch.unflatten(self.own_gates(x_BN), 1, each))

    def _attention(self) -> Tensor:
        """a_DD."""
        assert self.embedding.domain_weight is not None
        logit_DD = self.relation(self.embedding.domain_weight)
        own_DD = torch.eye(self.domains, dtype=torch.bool, device=logit_DD.device)
        return torch.softmax(logit_DD.masked_fill(own_DD, _NOBODY), dim=1)
