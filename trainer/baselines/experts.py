"""What the rankers of the expert family share: a common first layer, experts run side by side, gates that mix them.

Decision: experts and gates read one shared hidden layer, not the embeddings, so that an expert more costs a narrow layer and not
another pass over all features.
Shapes: B rows, R rows of `domain` (B, or 1 in a request), D domains, X experts, N input and W output width of an expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP, DomainTowers, FieldEmbedding, Inputs, Ranker


@dataclass(frozen=True)
class ExpertsConfig:
    """bottom, expert, tower: hidden widths from the embeddings to the logit, together those of the shared DNN; experts: how
    many the domains share; dropout: one rate for every layer."""

    dim: int = 8
    bottom: tuple[int, ...] = (128,)
    expert: tuple[int, ...] = (64,)
    tower: tuple[int, ...] = (32,)
    experts: int = 2
    dropout: float = 0.2
    embedding_l2: float = 1e-6


class ExpertRanker(Ranker):
    """Embeddings and the layers beneath the experts; a subclass makes a logit of what `bottom_of` gives."""

    def __init__(self, schema: FeatureSchema, config: ExpertsConfig) -> None:
        super().__init__(schema)
        self.config = config
        self.domains = len(schema.domains)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        self.dropout = nn.Dropout(config.dropout)
        self.bottom = _started(MLP(self.embedding.width, config.bottom, config.dropout))

    def bottom_of(self, inputs: Inputs) -> Tensor:
        """x_BN, what every expert and every gate reads."""
        x_BN: Tensor = self.bottom(self.embedding(inputs).flatten(1))
        return x_BN

    def expert(self, width: int, hidden: Sequence[int] | None = None) -> MLP:
        """Without dropout: it is done once, on what a gate has mixed."""
        return _started(MLP(width, hidden or self.config.expert))

    def experts(self, width: int, number: int, hidden: Sequence[int] | None = None) -> nn.ModuleList:
        return nn.ModuleList(self.expert(width, hidden) for _ in range(number))

    def gates(self, width: int, number: int) -> DomainTowers:
        """A linear gate over `number` experts for each domain."""
        return DomainTowers(self.domains, lambda: MLP(width, (), output=number))

    def towers(self, width: int) -> DomainTowers:
        """The last hidden layers and the logit of each domain."""
        return DomainTowers(self.domains, lambda: _started(MLP(width, self.config.tower, self.config.dropout, output=1)))


def side_by_side(networks: Iterable[Any], x: Tensor) -> Tensor:
    """x_BN, or x_BXN when each has an input of its own, through X MLPs of one shape -> (B, X, W), one product a layer. No
    dropout: what comes out is mixed first."""
    every: list[Any] = list(networks)
    for layer in range(len(every[0].linears)):
        weights, biases = zip(*((one.linears[layer].weight, one.linears[layer].bias) for one in every), strict=True)
        if x.dim() == 2:
            x = F.linear(x, torch.cat(weights), torch.cat(biases)).view(-1, len(every), len(biases[0]))
        else:
            weight_XNW = torch.stack(weights).transpose(1, 2)
            x = torch.baddbmm(torch.stack(biases)[:, None], x.transpose(0, 1), weight_XNW).transpose(0, 1)
        if layer < len(every[0].rates):
            x = F.relu(x)
    return x


def mixed(expert_XW: Tensor, gate_X: Tensor) -> Tensor:
    """(..., X, W) and (..., X) -> (..., W): the sum over experts of softmax(gate) expert."""
    weight_X1 = torch.softmax(gate_X, dim=-1)[..., None]  # not by bmm: B small products take twice as long
    return (weight_X1 * expert_XW).sum(dim=-2)


def of_own_domain(every_BDW: Tensor, domain_R: Tensor) -> Tensor:
    """x_BW: of what each domain has computed for a row, what the row's own has."""
    if domain_R.shape[0] == 1:
        return every_BDW.index_select(1, domain_R).squeeze(1)
    return every_BDW[torch.arange(len(domain_R), device=domain_R.device), domain_R]


def _started(network: MLP) -> MLP:
    """He's start for the hidden layers. KuaiRand-Pure, mean AUC of tabs 0, 1, 2, 4, 6, two epochs, one seed: MMoE .698, PLE .690,
    with torch's own start .693, .682; SharedBottom .696 either way. The shared DNN, which keeps torch's: .691, by He's .694."""
    hidden: list[Any] = list(network.linears)[: len(network.rates)]
    for linear in hidden:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
    return network
