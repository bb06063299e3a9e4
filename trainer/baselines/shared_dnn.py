"""Shared DNN: one network for all domains, the domain being one more feature. The base that the others must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.layers import MLP, FieldEmbedding, Inputs, Ranker


@dataclass(frozen=True)
class SharedDNNConfig:
    """dim: embedding width E; hidden: layer widths; dropout: one rate for every layer."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    dropout: float = 0.2
    embedding_l2: float = 1e-6


VARIANTS: dict[str, dict[str, Any]] = {}


class SharedDNN(Ranker):
    def __init__(self, schema: FeatureSchema, config: SharedDNNConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        self.network = MLP(self.embedding.width, config.hidden, config.dropout, output=1)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.logit(self.embedding(inputs))

    def logit(self, tokens_BFE: Tensor) -> Tensor:
        """logit_B from the tokens alone: what the attribution differentiates."""
        out_B1: Tensor = self.network(tokens_BFE.flatten(1))
        return out_B1.squeeze(1)
