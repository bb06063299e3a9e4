"""AdaSparse: a sub-network for each domain by pruning neurons of one network (arXiv 2206.13108).

    v_l  = beta sigmoid(alpha (W_l [domain; h_l] + b_l))             the pruner of hidden layer l, one factor a neuron
    pi_l = v_l if v_l > epsilon else 0,  h_l <- pi_l * h_l           the paper's fusion of scaling and binarisation
    loss = log-loss + mean over l of lambda |r_l - r| (r_l - r)^2    where r_l, the pruned share, is out of [r_min, r_max]

alpha rises while training: the factors begin smooth and end nearly binary. r is the middle of the range. The pruned share is a
count, so its gradient is that of v / beta (straight-through). Decision: embeddings are not neurons and are not pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP, FieldEmbedding, Inputs, Ranker
from trainer.tables import Batch

_BETA, _EPSILON = 2.0, 0.25
_ALPHA, _ALPHA_STEP, _ALPHA_END = 1.0, 0.01, 5.0


@dataclass(frozen=True)
class AdaSparseConfig:
    """pruned: the range (r_min, r_max) of the share of pruned neurons; sparsity: lambda; the rest as in the shared DNN."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    pruned: tuple[float, float] = (0.15, 0.25)
    sparsity: float = 1.0
    dropout: float = 0.2
    embedding_l2: float = 1e-6


VARIANTS: dict[str, dict[str, Any]] = {}


class AdaSparse(Ranker):
    alpha: Tensor

    def __init__(self, schema: FeatureSchema, config: AdaSparseConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.config = config
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        self.network = MLP(self.embedding.width, config.hidden, config.dropout, output=1)
        self.pruners = nn.ModuleList(nn.Linear(config.dim + width, width) for width in config.hidden)
        self.register_buffer("alpha", torch.tensor(_ALPHA))

    def forward(self, inputs: Inputs) -> Tensor:
        return self._pruned(inputs)[0]

    def training_loss(self, batch: Batch) -> Tensor:
        self.alpha.add_(_ALPHA_STEP).clamp_(max=_ALPHA_END)
        logit_B, shares = self._pruned(batch.inputs)
        loss = F.binary_cross_entropy_with_logits(logit_B, batch.label) + self.regularisation(batch.inputs)
        return loss + self._sparsity(torch.stack(shares))

    def _pruned(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """logit_B and the pruned share of each layer."""
        tokens_BFE = self.embedding(inputs)
        x, domain_BE = tokens_BFE.flatten(1), tokens_BFE[:, -1]
        shares = []
        for layer, pruner in enumerate(self.pruners):
            x = self.network.hidden(layer, x)
            soft = torch.sigmoid(self.alpha * pruner(torch.cat([domain_BE, x], dim=1)))
            kept = (_BETA * soft > _EPSILON).to(x.dtype)
            x = x * _BETA * soft * kept
            shares.append(1.0 - (kept + soft - soft.detach()).mean())
        logit_B1: Tensor = self.network.linears[-1](x)
        return logit_B1.squeeze(1), shares

    def _sparsity(self, share_L: Tensor) -> Tensor:
        low, high = self.config.pruned
        off_L = share_L - (low + high) / 2.0
        weight_L = self.config.sparsity * off_L.detach().abs() * ((share_L < low) | (share_L > high))
        return (weight_L * off_L.square()).mean()
