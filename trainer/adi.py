"""ADI, the Adaptive Domain Interest network for retrieval (arXiv 2206.09672).

Two towers of one shape, both given the domain d:
  shared embedding -> domain interest adaptation -> K shared experts + 1 specific of d -> fusion -> d's forward net
with self-training on top (trainer/self_training.py). What stands around the towers is what every neural retriever here has
(trainer/neural_towers.py); its residual path is the sum of the adapted tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer import neural_towers
from trainer.adi_layers import ADAPTATIONS, Adaptation, FusedExperts, Fusion, NetworkMul, NormedMLP
from trainer.neural_towers import NeuralTowers, Tower, TowerConfig, variant


@dataclass(frozen=True)
class ADIConfig(TowerConfig):
    adaptation: Adaptation = "se"
    shared_experts: int = 1
    fusion: Fusion = "concat"
    domain_batch_norm: bool = True
    self_training_percent: float = 5.0
    self_training_step: float = 5.0


class FusedNetwork(nn.Module):
    """Experts, their fusion and the domain's forward net: rows_BI -> (B, width)."""

    def __init__(self, inputs: int, domains: int, config: ADIConfig) -> None:
        super().__init__()
        shared_norm = not config.domain_batch_norm
        widths = (inputs, *config.expert_widths)
        self.experts: FusedExperts | NetworkMul
        if config.fusion == "network_mul":
            self.experts = NetworkMul(widths, domains, config.shared_experts, shared_norm)
        else:
            self.experts = FusedExperts(widths, domains, config.shared_experts, config.fusion, shared_norm)
        forward_widths = (self.experts.width, *config.forward_widths)
        self.forward_nets = nn.ModuleList(NormedMLP(forward_widths, 1, shared_norm=True) for _ in range(domains))
        self.width = forward_widths[-1]

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        hidden_BH: Tensor = self.forward_nets[domain](self.experts(rows_BI, domain), 0)
        return hidden_BH


class ADI(NeuralTowers):
    def __init__(self, schema: FeatureSchema, config: ADIConfig = ADIConfig()) -> None:
        domains = len(schema.domains)

        def tower(fields: int) -> Tower:
            adaptation = ADAPTATIONS[config.adaptation](fields, config.width, domains)
            network = FusedNetwork(fields * config.width, domains, config)
            return Tower(network, network.width, domains, config, adaptation)

        super().__init__(schema, config, tower)


VARIANTS: dict[str, Callable[[Any], Any]] = {
    "lt": variant(adaptation="lt"),
    "va": variant(adaptation="va"),
    "se": variant(adaptation="se"),
    "no_adaptation": variant(adaptation="none"),
    "concat": variant(fusion="concat"),
    "sum": variant(fusion="sum"),
    "network_mul": variant(fusion="network_mul"),
    "no_dsbn": variant(domain_batch_norm=False),
    "experts_1": variant(shared_experts=1),
    "experts_3": variant(shared_experts=3),
    "experts_4": variant(shared_experts=4),
    "adi_max": variant(shared_experts=3),
    "no_self_training": variant(self_training_percent=0.0, self_training_step=0.0),
    **neural_towers.VARIANTS,
}
