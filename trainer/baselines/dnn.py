"""DNN, the first row of ADI's comparison (arXiv 2206.09672, table 3): one pair of towers for all domains, to which the domain is
not told. What stands beside the towers (graph, popularity) knows it here as it does in every neural retriever."""

from __future__ import annotations

from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP
from trainer.neural_towers import NeuralTowers, Tower, TowerConfig


class DomainBlind(nn.Module):
    """rows_BI -> (B, width), in every domain the same."""

    def __init__(self, inputs: int, config: TowerConfig) -> None:
        super().__init__()
        self.layers = MLP(inputs, (*config.expert_widths, *config.forward_widths))
        self.width = self.layers.width

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        hidden_BH: Tensor = self.layers(rows_BI)
        return hidden_BH


class DNN(NeuralTowers):
    def __init__(self, schema: FeatureSchema, config: TowerConfig = TowerConfig()) -> None:
        def tower(fields: int) -> Tower:
            network = DomainBlind(fields * config.width, config)
            return Tower(network, network.width, 1, config)

        super().__init__(schema, config, tower)
