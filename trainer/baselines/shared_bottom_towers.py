"""Shared bottom (Caruana 1997, as compared in arXiv 2206.09672, table 3): the first layers are all domains', the last each
domain's own."""

from __future__ import annotations

from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP
from trainer.neural_towers import NeuralTowers, Tower, TowerConfig


class SharedBottom(nn.Module):
    """rows_BI -> (B, width)."""

    def __init__(self, inputs: int, domains: int, config: TowerConfig) -> None:
        super().__init__()
        self.bottom = MLP(inputs, config.expert_widths)
        self.tops = nn.ModuleList(MLP(self.bottom.width, config.forward_widths) for _ in range(domains))
        self.width = config.forward_widths[-1]

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        hidden_BH: Tensor = self.tops[domain](self.bottom(rows_BI))
        return hidden_BH


class SharedBottomTowers(NeuralTowers):
    def __init__(self, schema: FeatureSchema, config: TowerConfig = TowerConfig()) -> None:
        domains = len(schema.domains)

        def tower(fields: int) -> Tower:
            network = SharedBottom(fields * config.width, domains, config)
            return Tower(network, network.width, domains, config)

        super().__init__(schema, config, tower)
