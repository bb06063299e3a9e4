"""PLE towers (Tang et al., RecSys 2020, as compared in arXiv 2206.09672, table 3): levels of experts, some shared and some each
domain's own. A domain's gate reads its own and the shared ones, the shared gate all of them (equations 4 and 6); what a gate
selects is what its experts read at the next level. Then the domain's own layers.

A stream is what a gate selects: 0 .. D-1 the domains', D the shared one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.baselines.mmoe_towers import mixed
from trainer.layers import MLP
from trainer.neural_towers import NeuralTowers, Tower, TowerConfig


@dataclass(frozen=True)
class PLETowersConfig(TowerConfig):
    """A level for each of expert_widths."""

    shared_experts: int = 2
    own_experts: int = 1


class Level(nn.Module):
    """One extraction. last: its shared stream is never asked for, and has no gate."""

    def __init__(self, inputs: int, units: int, domains: int, config: PLETowersConfig, last: bool) -> None:
        super().__init__()
        experts = [config.own_experts] * domains + [config.shared_experts]
        gates = [config.own_experts + config.shared_experts] * domains + ([] if last else [sum(experts)])
        self.experts = nn.ModuleList(nn.ModuleList(MLP(inputs, (units,)) for _ in range(count)) for count in experts)
        self.gates = nn.ModuleList(nn.Linear(inputs, count, bias=False) for count in gates)

    def forward(self, streams: Mapping[int, Tensor], asked: Sequence[int]) -> dict[int, Tensor]:
        shared = len(self.experts) - 1
        read = {stream: range(shared + 1) if stream == shared else (stream, shared) for stream in asked}
        found = {
            source: torch.stack([expert(streams[source]) for expert in self.experts[source].children()], dim=2)
            for source in sorted({one for sources in read.values() for one in sources})
        }
        return {
            stream: mixed(torch.cat([found[one] for one in sources], dim=2), self.gates[stream](streams[stream]))
            for stream, sources in read.items()
        }


class PLENetwork(nn.Module):
    """rows_BI -> (B, width)."""

    def __init__(self, inputs: int, domains: int, config: PLETowersConfig) -> None:
        super().__init__()
        pairs = list(pairwise((inputs, *config.expert_widths)))
        self.levels = nn.ModuleList(
            Level(start, end, domains, config, last=number == len(pairs)) for number, (start, end) in enumerate(pairs, start=1)
        )
        self.tops = nn.ModuleList(MLP(config.expert_widths[-1], config.forward_widths) for _ in range(domains))
        self.width = config.forward_widths[-1]

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        shared, last = len(self.tops), len(self.levels) - 1
        streams = dict.fromkeys(range(shared + 1), rows_BI)
        for number, level in enumerate(self.levels):
            asked = (domain,) if number == last else (domain, shared) if number == last - 1 else range(shared + 1)
            streams = level(streams, asked)
        hidden_BH: Tensor = self.tops[domain](streams[domain])
        return hidden_BH


class PLETowers(NeuralTowers):
    def __init__(self, schema: FeatureSchema, config: PLETowersConfig = PLETowersConfig()) -> None:
        domains = len(schema.domains)

        def tower(fields: int) -> Tower:
            network = PLENetwork(fields * config.width, domains, config)
            return Tower(network, network.width, domains, config)

        super().__init__(schema, config, tower)
