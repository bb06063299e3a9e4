"""PLE, progressive layered extraction (Tang et al., RecSys 2020): two levels of customised gate control (sections 4.1, 4.2).

Level 1 reads x:
    own_d = sum_i softmax(W_d x)_i [E_d(x), S_1(x), ..., S_k(x)]_i                  (own and shared experts)
    common = sum_i softmax(W_s x)_i [E_1(x), ..., E_D(x), S_1(x), ..., S_k(x)]_i    (the shared gate sees all)
Level 2 does the first again with other weights, its own expert and gate reading own_d, its shared experts reading common;
logit = tower_d.

Decision: one expert a domain and level, so that D small domains do not bring 2 D of them. The shared gate makes each row run
through all D first-level experts: that part costs D narrow layers (a sixteenth of the first layer each, at these widths), the
rest is the row's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.baselines.experts import ExpertRanker, ExpertsConfig, mixed, of_own_domain, side_by_side
from trainer.layers import DomainTowers, Inputs

VARIANTS: dict[str, dict[str, Any]] = {}


class PLE(ExpertRanker):
    """config.experts: shared experts a level."""

    def __init__(self, schema: FeatureSchema, config: ExpertsConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema, config)
        width, inner, shared = self.bottom.width, config.expert[-1], config.experts
        self.own_experts = self.experts(width, self.domains)
        self.shared_experts = self.experts(width, shared)
        self.own_gate = self.gates(width, 1 + shared)
        self.shared_gate = nn.Linear(width, self.domains + shared)
        self.last_own_expert = DomainTowers(self.domains, lambda: self.expert(inner))
        self.last_shared_experts = self.experts(inner, shared)
        self.last_gate = self.gates(inner, 1 + shared)
        self.tower = self.towers(inner)

    def forward(self, inputs: Inputs) -> Tensor:
        x_BN, domain_R = self.bottom_of(inputs), inputs.domain
        every_BXW = side_by_side([*self.own_experts, *self.shared_experts], x_BN)
        mine_BW, shared_BXW = of_own_domain(every_BXW[:, : self.domains], domain_R), every_BXW[:, self.domains :]
        own_BW = mixed(torch.cat([mine_BW[:, None], shared_BXW], dim=1), self.own_gate(x_BN, domain_R))
        common_BW = mixed(every_BXW, self.shared_gate(x_BN))

        own_BW, common_BW = self.dropout(own_BW), self.dropout(common_BW)
        mine_BW, shared_BXW = self.last_own_expert(own_BW, domain_R), side_by_side(self.last_shared_experts, common_BW)
        last_BW = mixed(torch.cat([mine_BW[:, None], shared_BXW], dim=1), self.last_gate(own_BW, domain_R))
        logit_B1: Tensor = self.tower(self.dropout(last_BW), domain_R)
        return logit_B1.squeeze(1)
