"""PEPNet: embeddings gated by the domain, hidden layers gated by who and what (arXiv 2302.01115, for one task).

    GateNU(x)   delta = 2 sigmoid(relu(x W + b) W' + b')
    EPNet       o = GateNU([domain; stop(e)]) * e                          e: the flattened tokens
    PPNet       h_l = GateNU_l([user id; ad id; stop(o)]) * relu(h_{l-1} W_l + b_l),  h_0 = o

The gates read what they scale without teaching it (stop: stop-gradient). The paper's third prior, the author, is a feature that
not every dataset has; the ids of user and ad always are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contracts.schema import AD_ID, USER_ID, FeatureSchema
from trainer.layers import MLP, FieldEmbedding, Inputs, Ranker


@dataclass(frozen=True)
class PEPNetConfig:
    """gate: width of a gate's hidden layer; the rest as in the shared DNN."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    gate: int = 32
    dropout: float = 0.2
    embedding_l2: float = 1e-6


VARIANTS: dict[str, dict[str, Any]] = {}


class PEPNet(Ranker):
    def __init__(self, schema: FeatureSchema, config: PEPNetConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        names, width = self.embedding.names, self.embedding.width - config.dim  # the domain's token comes last
        self.priors = [names.index(USER_ID), names.index(AD_ID)]
        self.embedding_gate = MLP(config.dim + width, (config.gate,), output=width)
        prior = config.dim * len(self.priors) + width
        self.hidden_gates = nn.ModuleList(MLP(prior, (config.gate,), output=one) for one in config.hidden)
        self.network = MLP(width, config.hidden, config.dropout, output=1)

    def forward(self, inputs: Inputs) -> Tensor:
        tokens_BFE = self.embedding(inputs)
        e_BH, domain_BE = tokens_BFE[:, :-1].flatten(1), tokens_BFE[:, -1]
        x = _scale(self.embedding_gate, domain_BE, e_BH) * e_BH
        prior_BP, gated_BH = tokens_BFE[:, self.priors].flatten(1), x
        for layer, gate in enumerate(self.hidden_gates):
            x = _scale(gate, prior_BP, gated_BH) * self.network.hidden(layer, x)
        logit_B1: Tensor = self.network.linears[-1](x)
        return logit_B1.squeeze(1)


def _scale(gate: nn.Module, prior_BP: Tensor, stopped_BH: Tensor) -> Tensor:
    """GateNU: factors between 0 and 2."""
    return 2.0 * torch.sigmoid(gate(torch.cat([prior_BP, stopped_BH.detach()], dim=1)))
