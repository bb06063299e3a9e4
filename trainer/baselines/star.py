"""STAR, one model for all domains with a star-shaped topology (arXiv 2101.11427).

    partitioned normalisation   z' = gamma gamma_d (z - mean_d) / sqrt(variance_d + epsilon) + beta + beta_d
    star topology               W*_d = W * W_d elementwise, b*_d = b + b_d
    auxiliary network           logit = star(z') + auxiliary([z; domain])

The paper cuts batches by domain and takes each batch's own statistics. Real domains are of very unequal size, so here batches are
mixed and mean_d, variance_d are running ones, in training (the current rows included) as at inference: a row alone, in a crowd
or among another domain's rows gets the same answer, and one row of a tiny domain is not normalised by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP, DomainTowers, FieldEmbedding, Inputs, Ranker

_EPSILON = 1e-5
_MEMORY_ROWS = (
    10_000.0  # rows after which a domain's statistics have forgotten 1 - 1/e of the past: batch norm's .1 a batch of 1024
)
_PRIOR_ROWS = 100.0  # rows that a domain borrows from all domains together; a domain never seen has nothing else


@dataclass(frozen=True)
class STARConfig:
    """auxiliary: hidden widths of the auxiliary network; the rest as in the shared DNN."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    auxiliary: tuple[int, ...] = (32,)
    dropout: float = 0.2
    embedding_l2: float = 1e-6


VARIANTS: dict[str, dict[str, Any]] = {}


class PartitionedNorm(nn.Module):
    """Per-domain normalisation of z_BH by decayed sums over the rows seen in training."""

    rows_D: Tensor
    sum_DH: Tensor
    square_DH: Tensor

    def __init__(self, domains: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.scale_DH = nn.Parameter(torch.ones(domains, width))
        self.shift_DH = nn.Parameter(torch.zeros(domains, width))
        self.register_buffer("rows_D", torch.zeros(domains))
        self.register_buffer("sum_DH", torch.zeros(domains, width))
        self.register_buffer("square_DH", torch.zeros(domains, width))

    def forward(self, z_BH: Tensor, domain_R: Tensor) -> Tensor:
        if self.training:
            self._observe(z_BH.detach(), domain_R)
        mean_DH, variance_DH = self._statistics()
        scale_DH = self.scale * self.scale_DH * torch.rsqrt(variance_DH + _EPSILON)
        shift_DH = self.shift + self.shift_DH - mean_DH * scale_DH
        return z_BH * nn.functional.embedding(domain_R, scale_DH) + nn.functional.embedding(domain_R, shift_DH)

    def _observe(self, z_BH: Tensor, domain_B: Tensor) -> None:
        own_DB = nn.functional.one_hot(domain_B, len(self.rows_D)).to(z_BH.dtype).T
        new_D = own_DB.sum(dim=1)
        kept_D = torch.exp(-new_D / _MEMORY_ROWS)
        self.rows_D.mul_(kept_D).add_(new_D)
        self.sum_DH.mul_(kept_D[:, None]).add_(own_DB @ z_BH)
        self.square_DH.mul_(kept_D[:, None]).add_(own_DB @ z_BH.square())

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """mean_DH and variance_DH: of a domain's rows and _PRIOR_ROWS average ones of all domains."""
        every = self.rows_D.sum().clamp(min=1.0)
        rows_D1 = (self.rows_D + _PRIOR_ROWS)[:, None]
        mean_DH = (self.sum_DH + _PRIOR_ROWS * self.sum_DH.sum(dim=0) / every) / rows_D1
        square_DH = (self.square_DH + _PRIOR_ROWS * self.square_DH.sum(dim=0) / every) / rows_D1
        return mean_DH, (square_DH - mean_DH.square()).clamp(min=0.0)


class StarTowers(DomainTowers):
    """A tower a domain, each layer of it multiplied with the shared one. The domains' own weights start at one, biases at zero:
    every domain starts as the shared network."""

    def __init__(self, domains: int, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(domains, lambda: _neutral(MLP(width, hidden, dropout, output=1)))
        self.shared = MLP(width, hidden, dropout, output=1)

    def weights(self, domain: int | Tensor) -> list[tuple[Tensor, Tensor]]:
        shared: list[Any] = list(self.shared.linears)
        own = super().weights(domain)
        return [(one.weight * weight, one.bias + bias) for one, (weight, bias) in zip(shared, own, strict=True)]


def _neutral(tower: MLP) -> MLP:
    for one in tower.linears:
        nn.init.ones_(one.weight)  # type: ignore[arg-type]
        nn.init.zeros_(one.bias)  # type: ignore[arg-type]
    return tower


class STAR(Ranker):
    """The main network reads the features, the auxiliary one the domain as well."""

    def __init__(self, schema: FeatureSchema, config: STARConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        domains = len(schema.domains)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        width = self.embedding.width - config.dim  # the domain's token comes last
        self.norm = PartitionedNorm(domains, width)
        self.star = StarTowers(domains, width, config.hidden, config.dropout)
        self.auxiliary = MLP(self.embedding.width, config.auxiliary, config.dropout, output=1)

    def forward(self, inputs: Inputs) -> Tensor:
        tokens_BFE = self.embedding(inputs)
        z_BH = self.norm(tokens_BFE[:, :-1].flatten(1), inputs.domain)
        logit_B1: Tensor = self.star(z_BH, inputs.domain) + self.auxiliary(tokens_BFE.flatten(1))
        return logit_B1.squeeze(1)
