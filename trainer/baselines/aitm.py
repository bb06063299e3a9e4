"""AITM, adaptive information transfer (arXiv 2105.08489), from what all domains have in common to the row's own domain.

    p    = g(t_s(x))                          what the step before hands on
    q    = t_d(x)                             what the own tower finds
    w_u  = softmax_{u in {p, q}}(<h2(u), h3(u)> / sqrt(W)),   z = sum_u w_u h1(u)          (AIT module; h1, h2, h3 of domain d)
    loss = log-loss(head_s(t_s(x))) + log-loss(head_d(z))

The paper's steps are an impression's click, application, activation: each a condition of the next. Domains have no such
order, so the sequence has two steps: a click anywhere, learned from every row, then a click here. A chain through all domains,
say by falling number of impressions, would make each row run through all of them. The paper's calibrator (a later step is never
more likely than an earlier one) has no meaning here. The cost of a row does not depend on the number of domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.baselines.experts import ExpertRanker, ExpertsConfig, mixed
from trainer.layers import MLP, DomainTowers, Inputs
from trainer.tables import Batch

VARIANTS: dict[str, dict[str, Any]] = {}


class AITM(ExpertRanker):
    def __init__(self, schema: FeatureSchema, config: ExpertsConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema, config)
        width, inner = self.bottom.width, config.expert[-1]
        self.anywhere = self.expert(width)
        self.anywhere_head = MLP(inner, config.tower, config.dropout, output=1)
        self.hand_on = nn.Linear(inner, inner)
        self.here = DomainTowers(self.domains, lambda: self.expert(width))
        self.transfer = DomainTowers(self.domains, lambda: MLP(inner, (), output=3 * inner))
        self.tower = self.towers(inner)

    def forward(self, inputs: Inputs) -> Tensor:
        x_BN = self.bottom_of(inputs)
        return self._here(x_BN, self.anywhere(x_BN), inputs.domain)

    def training_loss(self, batch: Batch) -> Tensor:
        x_BN = self.bottom_of(batch.inputs)
        anywhere_BW = self.anywhere(x_BN)
        logit_B = self._here(x_BN, anywhere_BW, batch.inputs.domain)
        before_B = self.anywhere_head(self.dropout(anywhere_BW)).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logit_B, batch.label)
        return loss + F.binary_cross_entropy_with_logits(before_B, batch.label) + self.regularisation(batch.inputs)

    def _here(self, x_BN: Tensor, anywhere_BW: Tensor, domain_R: Tensor) -> Tensor:
        values, weights = [], []
        for u_BW in (F.relu(self.hand_on(anywhere_BW)), self.here(x_BN, domain_R)):
            value, key, query = self.transfer(u_BW, domain_R).chunk(3, dim=1)
            values.append(value)
            weights.append((key * query).sum(dim=1) / value.shape[1] ** 0.5)
        z_BW = mixed(torch.stack(values, dim=1), torch.stack(weights, dim=1))
        logit_B1: Tensor = self.tower(self.dropout(z_BW), domain_R)
        return logit_B1.squeeze(1)
