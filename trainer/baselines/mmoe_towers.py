"""MMoE towers (Ma et al., KDD 2018, as compared in arXiv 2206.09672, table 3): experts that all domains share, mixed by each
domain's gate over the input (equations 6 and 7), then the domain's own layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.layers import MLP
from trainer.neural_towers import NeuralTowers, Tower, TowerConfig


@dataclass(frozen=True)
class MMoETowersConfig(TowerConfig):
    experts: int = 4


class MMoENetwork(nn.Module):
    """rows_BI -> (B, width)."""

    def __init__(self, inputs: int, domains: int, config: MMoETowersConfig) -> None:
        super().__init__()
        self.experts = nn.ModuleList(MLP(inputs, config.expert_widths) for _ in range(config.experts))
        self.gates = nn.ModuleList(nn.Linear(inputs, config.experts, bias=False) for _ in range(domains))
        self.tops = nn.ModuleList(MLP(config.expert_widths[-1], config.forward_widths) for _ in range(domains))
        self.width = config.forward_widths[-1]

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        expert_BHK = torch.stack([expert(rows_BI) for expert in self.experts], dim=2)
        hidden_BH: Tensor = self.tops[domain](mixed(expert_BHK, self.gates[domain](rows_BI)))
        return hidden_BH


class MMoETowers(NeuralTowers):
    def __init__(self, schema: FeatureSchema, config: MMoETowersConfig = MMoETowersConfig()) -> None:
        domains = len(schema.domains)

        def tower(fields: int) -> Tower:
            network = MMoENetwork(fields * config.width, domains, config)
            return Tower(network, network.width, domains, config)

        super().__init__(schema, config, tower)


def mixed(expert_BHK: Tensor, gate_BK: Tensor) -> Tensor:
    """(B, H): experts weighed by the softmax of a gate's logits."""
    return (expert_BHK * torch.softmax(gate_BK, dim=1)[:, None, :]).sum(dim=2)
