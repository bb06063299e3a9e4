"""ADI, the Adaptive Domain Interest network for retrieval (arXiv 2206.09672).

Two towers of one shape, both given the domain d:
  shared embedding -> domain interest adaptation -> K shared experts + 1 specific of d -> fusion -> d's forward net
Score = inner product; loss = sampled softmax with the log-Q correction (trainer/sampling.py); self-training on top
(trainer/self_training.py).

Beyond the paper, each with an ablation: a residual path (sum of the adapted tokens) around experts and forward net, which on
id-only data keeps the inner product of the ids themselves; a popularity dimension (the ad's bias in d against the user's
constant one); L2 normalisation with a temperature; and, where users have a history of ads, what the graph of all domains says of
user and ad (trainer/spectral.py), beside which the towers learn what is left: one inner product of
[towers ; graph ; popularity].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.schema import AD_ID, FIRST, UNKNOWN, USER_ID, FeatureSchema
from trainer.adi_layers import ADAPTATIONS, Adaptation, FusedExperts, Fusion, NetworkMul, NormedMLP
from trainer.layers import FieldEmbedding
from trainer.sampling import Entities, Negatives, Positives, sampled_softmax, training_pairs
from trainer.spectral import GraphConfig, GraphPart, history_columns
from trainer.two_tower import TwoTower

# KuaiRand-Pure tab 0 (882 training clicks), Recall@50 of the smoothed counts alone: .173 from .002 to .1, .162 at .4, .067 at
# 1.5. Read off the test days, so results on that tab are not independent of this choice.
_PSEUDO_COUNT = 0.1  # an ad, on average


@dataclass(frozen=True)
class ADIConfig:
    """What the towers are, and how they are trained. width: of tokens and of the towers' part of the embedding. temperature: of
    the towers alone; temperature_beside_graph: where the graph stands beside them, so that they say less: XMarket's validation
    Recall@10 / @50 of all after an epoch, own_weight .5: .672 / .523 at .15, .677 / .527 at .5, .672 / .523 without towers."""

    width: int = 128
    adaptation: Adaptation = "se"
    shared_experts: int = 1
    expert_widths: tuple[int, ...] = (128, 64)
    fusion: Fusion = "concat"
    forward_widths: tuple[int, ...] = (64,)
    domain_batch_norm: bool = True
    residual: bool = True
    popularity: bool = True
    normalised: bool = True
    temperature: float = 0.15
    graph: GraphConfig | None = field(default_factory=GraphConfig)
    temperature_beside_graph: float = 0.5
    spread: float = 0.1
    embedding_l2: float = 0.0
    user_id_dropout: float = 0.9
    self_training_percent: float = 5.0
    self_training_step: float = 5.0
    batch_size: int = 1024
    uniform_negatives: int = 1024
    learning_rate: float = 2e-3
    epochs: int = 8


class Tower(nn.Module):
    """One block's tokens_BFE -> embedding_BE, E = config.width."""

    def __init__(self, fields: int, domains: int, config: ADIConfig) -> None:
        super().__init__()
        shared_norm = not config.domain_batch_norm
        self.residual = config.residual
        self.adaptation = ADAPTATIONS[config.adaptation](fields, config.width, domains)
        widths = (fields * config.width, *config.expert_widths)
        self.experts: FusedExperts | NetworkMul
        if config.fusion == "network_mul":
            self.experts = NetworkMul(widths, domains, config.shared_experts, shared_norm)
        else:
            self.experts = FusedExperts(widths, domains, config.shared_experts, config.fusion, shared_norm)
        forward_widths = (self.experts.width, *config.forward_widths)
        self.forward_nets = nn.ModuleList(NormedMLP(forward_widths, 1, shared_norm=True) for _ in range(domains))
        self.heads = nn.ModuleList(nn.Linear(forward_widths[-1], config.width) for _ in range(domains))
        if config.residual:  # start as the inner product of the tokens alone
            for head in (cast(nn.Linear, one) for one in self.heads):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def forward(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        adapted_BFE = self.adaptation(tokens_BFE, domain)
        fused_BH = self.experts(adapted_BFE.flatten(1), domain)
        embedding_BE: Tensor = self.heads[domain](self.forward_nets[domain](fused_BH, 0))
        if self.residual:
            embedding_BE = embedding_BE + adapted_BFE.sum(1)
        return embedding_BE


class ADI(TwoTower):
    """The two towers. Raises nothing of its own: codes outside the schema are the encoder's affair."""

    def __init__(self, schema: FeatureSchema, config: ADIConfig = ADIConfig()) -> None:
        super().__init__()
        self.config = config
        self.graph = GraphPart(schema, config.graph) if config.graph and history_columns(schema) is not None else None
        self.temperature = config.temperature if self.graph is None else config.temperature_beside_graph
        self.dimension = config.width + (self.graph.width if self.graph else 0) + (1 if config.popularity else 0)
        domains = len(schema.domains)
        user, ad = schema.block("user"), schema.block("ad")
        self.embedding = FieldEmbedding(schema, config.width, blocks=("user", "ad"))
        nn.init.normal_(self.embedding.weight, std=config.spread)
        self.user_tower = Tower(len(user.fields), domains, config)
        self.ad_tower = Tower(len(ad.fields), domains, config)
        self.user_id_column = next(field.start for field in user.fields if field.name == USER_ID)
        ad_id = next(field for field in ad.fields if field.name == AD_ID)
        self.ad_id_column = ad_id.start
        self.popularity = nn.Embedding(ad_id.cardinality * domains, 1) if config.popularity else None
        self.ads_a_domain = ad_id.cardinality
        if self.popularity is not None:
            nn.init.zeros_(self.popularity.weight)

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Iu) int32, dense: (B, Nu) float32 -> (B, dimension) float32."""
        return self._user(codes, dense, domain)[0]

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Ia) int32, dense: (B, Na) float32 -> (B, dimension) float32."""
        return self._ad(codes, dense, domain)[0]

    def training_loss(self, batch: Positives, negatives: Negatives) -> Tensor:
        """Sampled softmax over the batch's own ads and the uniform ones, plus the decay of the tokens read."""
        user_BE, user_tokens = self._user(batch.user_codes, batch.user_dense, batch.domain)
        ad_UE, ad_tokens = self._ad(negatives.ad_codes, negatives.ad_dense, batch.domain)
        loss = sampled_softmax(user_BE @ ad_UE.T, negatives)
        decay = user_tokens.square().sum((1, 2)).mean() + ad_tokens.square().sum((1, 2)).mean()
        return loss + self.config.embedding_l2 * decay

    def prepare(self, tables: Entities) -> None:
        """Take the graph, and start the popularity dimension at the log of the ad's positives in the domain, smoothed towards its
        share over all domains: the towers then learn what these do not tell."""
        self.extend(tables)
        if self.popularity is None:
            return
        pairs, ads = training_pairs(tables), self.ads_a_domain
        codes, _ = tables.ad_block(pairs.ad_row, pairs.domain)
        code = codes[:, self.ad_id_column].astype(np.int64)
        count_DA = np.zeros((self.popularity.num_embeddings // ads, ads))
        np.add.at(count_DA, (pairs.domain, code), 1.0)
        pooled_A = count_DA.sum(axis=0) + 1.0
        log_count_DA = np.log(count_DA + _PSEUDO_COUNT * ads * pooled_A / pooled_A.sum())
        log_count_DA[:, :FIRST] = log_count_DA.min(axis=1, keepdims=True)  # nothing is known of an unseen ad
        with torch.no_grad():
            self.popularity.weight.copy_(torch.from_numpy(log_count_DA.reshape(-1, 1)))

    def extend(self, tables: Entities) -> None:
        if self.graph is not None:
            self.graph.fit(tables)

    def _user(self, codes: Tensor, dense: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        if self.training:
            codes = self._forget(codes)
        tokens_BFE = self.embedding.block_tokens("user", codes, dense)
        embedding_BE = self.user_tower(tokens_BFE, domain)
        if self.config.normalised:  # the temperature stands in one tower only, so that the product holds it once
            embedding_BE = functional.normalize(embedding_BE, dim=1, eps=1e-6) / self.temperature
        if self.graph is not None:
            embedding_BE = torch.cat([embedding_BE, self.graph.user(codes, domain)], dim=1)
        if self.popularity is not None:
            embedding_BE = torch.cat([embedding_BE, torch.ones_like(embedding_BE[:, :1])], dim=1)
        return embedding_BE, tokens_BFE

    def _forget(self, codes: Tensor) -> Tensor:
        """Rows whose user is taken for a stranger: the id cannot be learned by heart, and strangers are trained for."""
        codes = codes.clone()
        forgotten = torch.rand(len(codes), device=codes.device) < self.config.user_id_dropout
        codes[forgotten, self.user_id_column] = UNKNOWN
        return codes

    def _ad(self, codes: Tensor, dense: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        tokens_BFE = self.embedding.block_tokens("ad", codes, dense)
        embedding_BE = self.ad_tower(tokens_BFE, domain)
        if self.config.normalised:
            embedding_BE = functional.normalize(embedding_BE, dim=1, eps=1e-6)
        if self.graph is not None:
            embedding_BE = torch.cat([embedding_BE, self.graph.ad(codes, domain)], dim=1)
        if self.popularity is not None:
            bias_B1 = self.popularity(codes[:, self.ad_id_column] + domain * self.ads_a_domain)
            embedding_BE = torch.cat([embedding_BE, bias_B1], dim=1)
        return embedding_BE, tokens_BFE


def _variant(**changes: object) -> Callable[[ADIConfig], ADIConfig]:
    return lambda base: replace(base, **changes)  # type: ignore[arg-type]


VARIANTS: dict[str, Callable[[ADIConfig], ADIConfig]] = {
    "lt": _variant(adaptation="lt"),
    "va": _variant(adaptation="va"),
    "se": _variant(adaptation="se"),
    "no_adaptation": _variant(adaptation="none"),
    "concat": _variant(fusion="concat"),
    "sum": _variant(fusion="sum"),
    "network_mul": _variant(fusion="network_mul"),
    "no_dsbn": _variant(domain_batch_norm=False),
    "normalised": _variant(normalised=True, embedding_l2=0.0),
    "unnormalised": _variant(normalised=False, embedding_l2=1e-2),  # nothing else bounds the norms
    "experts_1": _variant(shared_experts=1),
    "experts_3": _variant(shared_experts=3),
    "experts_4": _variant(shared_experts=4),
    "adi_max": _variant(shared_experts=3),
    "no_self_training": _variant(self_training_percent=0.0, self_training_step=0.0),
    "no_residual": _variant(residual=False),
    "no_popularity": _variant(popularity=False),
    "no_graph": _variant(graph=None),
    "no_convolution": _variant(graph=GraphConfig(convolved_width=0)),
    "pooled_graph": _variant(graph=GraphConfig(own_width=0)),
}
