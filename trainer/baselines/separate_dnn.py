"""Separate DNN: each domain has embeddings and a network of its own and learns from its own rows only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.baselines.shared_dnn import SharedDNNConfig
from trainer.layers import MLP, DomainTowers, FieldEmbedding, Inputs, Ranker

VARIANTS: dict[str, dict[str, Any]] = {}


class SeparateDNN(Ranker):
    """D shared DNNs side by side; they have the same configuration and nothing else in common."""

    def __init__(self, schema: FeatureSchema, config: SharedDNNConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, per_domain=True)
        width = self.embedding.width
        self.towers = DomainTowers(len(schema.domains), lambda: MLP(width, config.hidden, config.dropout, output=1))

    def forward(self, inputs: Inputs) -> Tensor:
        out_B1: Tensor = self.towers(self.embedding(inputs).flatten(1), inputs.domain)
        return out_B1.squeeze(1)
