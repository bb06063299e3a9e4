"""Cross-stitch networks (Misra et al., CVPR 2016): each domain has a tower, and after each layer every unit of it becomes a
learned linear combination of that unit in all towers (equation 1, one cross-stitch unit a channel). A row runs through all
towers, and its domain's is read at the end.

Shapes: B rows, I inputs, H units, D towers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.neural_towers import NeuralTowers, Tower, TowerConfig

_OWN = 0.9  # of a unit is its own at the start; the paper's best initialisation


class StitchedLayer(nn.Module):
    """x_DBI (or one x_BI for all towers) -> (D, B, H), relu before the stitch."""

    def __init__(self, inputs: int, units: int, domains: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(domains, inputs, units).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(domains, 1, units).uniform_(-bound, bound))
        own = torch.eye(domains)
        start_DD = _OWN * own + (1.0 - _OWN) * (1.0 - own) / (domains - 1) if domains > 1 else own
        self.stitch = nn.Parameter(start_DD[:, :, None].repeat(1, 1, units))  # [to, from, unit]

    def forward(self, x_DBI: Tensor) -> Tensor:
        hidden_DBH = torch.relu(torch.matmul(x_DBI, self.weight) + self.bias)
        return torch.einsum("tfh,fbh->tbh", self.stitch, hidden_DBH)


class CrossStitch(nn.Module):
    """rows_BI -> (B, width)."""

    def __init__(self, inputs: int, domains: int, config: TowerConfig) -> None:
        super().__init__()
        widths = (inputs, *config.expert_widths, *config.forward_widths)
        self.layers = nn.ModuleList(StitchedLayer(start, end, domains) for start, end in pairwise(widths))
        self.width = widths[-1]

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        hidden = rows_BI
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden[domain]


class CrossStitchTowers(NeuralTowers):
    def __init__(self, schema: FeatureSchema, config: TowerConfig = TowerConfig()) -> None:
        domains = len(schema.domains)

        def tower(fields: int) -> Tower:
            network = CrossStitch(fields * config.width, domains, config)
            return Tower(network, network.width, domains, config)

        super().__init__(schema, config, tower)
