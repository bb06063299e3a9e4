"""DCN-v2: explicit feature crosses beside a deep network (arXiv 2008.13535); the domain is one more token.

    x_{l+1} = x_0 * (U_l (V_l x_l) + b_l) + x_l          eq. 1 with W_l = U_l V_l, eq. 3
    logit   = w [x_L ; MLP(x_0)] + b                     the parallel structure (stacked: the same validation AUC on KuaiRand)

Low rank, as the paper advises for wide inputs: a full W_l is the input's width squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP, FieldEmbedding, Inputs, Ranker


@dataclass(frozen=True)
class DCNv2Config:
    """crosses: number of cross layers; rank: of their weights; the rest as in the shared DNN."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    crosses: int = 2
    rank: int = 32
    dropout: float = 0.2
    embedding_l2: float = 1e-6


VARIANTS: dict[str, dict[str, Any]] = {}


class CrossLayer(nn.Module):
    """x_0 * (U V x + b) + x, of one width throughout."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0_BH: Tensor, x_BH: Tensor) -> Tensor:
        crossed_BH: Tensor = x0_BH * self.up(self.down(x_BH))
        return crossed_BH + x_BH


class DCNv2(Ranker):
    def __init__(self, schema: FeatureSchema, config: DCNv2Config, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        width = self.embedding.width
        self.crosses = nn.ModuleList(CrossLayer(width, config.rank) for _ in range(config.crosses))
        self.network = MLP(width, config.hidden, config.dropout)
        self.head = nn.Linear(width + self.network.width, 1)

    def forward(self, inputs: Inputs) -> Tensor:
        x0_BH = self.embedding(inputs).flatten(1)
        x_BH = x0_BH
        for cross in self.crosses:
            x_BH = cross(x0_BH, x_BH)
        logit_B1: Tensor = self.head(torch.cat([x_BH, self.network(x0_BH)], dim=1))
        return logit_B1.squeeze(1)
