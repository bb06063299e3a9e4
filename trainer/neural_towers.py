"""What all neural retrievers have in common, so that they differ in the network of a tower and in nothing else:

  shared embedding -> tokens -> [network -> the domain's head] + sum of tokens -> L2 norm over a temperature
Score = one inner product of [towers ; graph ; popularity]; loss = sampled softmax with log-Q correction (trainer/sampling.py).

Each part beyond the network has an ablation: the residual path (sum of the tokens), which on id-only data keeps the inner product
of the ids themselves; a popularity dimension (the ad's bias in the domain against the user's constant one); L2 normalisation with
a temperature; and, where users have a history of ads, what the graph of all domains says of user and ad (trainer/spectral.py),
beside which the towers learn what is left.

Shapes: B rows, U ads of a softmax, F tokens (one a feature), E token width, H network width, D domains, A ad codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.schema import FIRST, UNKNOWN, BlockName, FeatureSchema
from trainer.graph import id_fields
from trainer.layers import FieldEmbedding
from trainer.sampling import Entities, Negatives, Positives, sampled_softmax, training_pairs
from trainer.spectral import GraphConfig, GraphPart, history_columns, settle
from trainer.two_tower import TwoTower

# KuaiRand-Pure tab 0 (882 training clicks), Recall@50 of the smoothed counts alone: .173 from .002 to .1, .162 at .4, .067 at
# 1.5. Read off the test days, so results on that tab are not independent of this choice.
_PSEUDO_COUNT = 0.1  # an ad, on average


@dataclass(frozen=True)
class TowerConfig:
    """What towers are, and how they are trained. width: of tokens and of the towers' part of the embedding. expert_widths: hidden
    layers of what domains share or mix; forward_widths: of what stands on it. temperature: of the towers alone;
    temperature_beside_graph: where the graph stands beside them, so that they say less: XMarket's validation Recall@10 / @50 of
    all after an epoch of ADI: .672 / .527 at .5, .672 / .528 at 1, .668 / .532 without towers."""

    width: int = 128
    expert_widths: tuple[int, ...] = (128, 64)
    forward_widths: tuple[int, ...] = (64,)
    residual: bool = True
    popularity: bool = True
    normalised: bool = True
    temperature: float = 0.15
    graph: GraphConfig | None = field(default_factory=GraphConfig)
    temperature_beside_graph: float = 1.0
    spread: float = 0.1
    embedding_l2: float = 0.0
    user_id_dropout: float = 0.9
    batch_size: int = 1024
    uniform_negatives: int = 1024
    learning_rate: float = 2e-3
    epochs: int = 8


class Tower(nn.Module):
    """One block's tokens_BFE -> embedding_BE: the heads on a network, and the residual path around it.

    network(rows_BI, domain) -> (B, network_width), I = F E; heads: D, or 1 where domains are not told apart;
    adaptation(tokens_BFE, domain) -> tokens_BFE, before both paths.
    """

    def __init__(
        self, network: nn.Module, network_width: int, heads: int, config: TowerConfig, adaptation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.residual = config.residual
        self.adaptation = adaptation
        self.network = network
        self.heads = nn.ModuleList(nn.Linear(network_width, config.width) for _ in range(heads))
        if config.residual:  # start as the inner product of the tokens alone
            for head in (cast(nn.Linear, one) for one in self.heads):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def forward(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        if self.adaptation is not None:
            tokens_BFE = self.adaptation(tokens_BFE, domain)
        hidden_BH = self.network(tokens_BFE.flatten(1), domain)
        embedding_BE: Tensor = self.heads[domain if len(self.heads) > 1 else 0](hidden_BH)
        if self.residual:
            embedding_BE = embedding_BE + tokens_BFE.sum(1)
        return embedding_BE


class NeuralTowers(TwoTower):
    """tower(fields): one side's Tower, given how many tokens it reads. Raises nothing of its own: codes outside the schema are
    the encoder's affair."""

    def __init__(self, schema: FeatureSchema, config: TowerConfig, tower: Callable[[int], Tower]) -> None:
        super().__init__()
        self.config = config
        self.graph = GraphPart(schema, config.graph) if config.graph and history_columns(schema) is not None else None
        self.temperature = config.temperature if self.graph is None else config.temperature_beside_graph
        self.dimension = config.width + (self.graph.width if self.graph else 0) + (1 if config.popularity else 0)
        self.embedding = FieldEmbedding(schema, config.width, blocks=("user", "ad"))
        nn.init.normal_(self.embedding.weight, std=config.spread)
        self.user_tower = tower(len(schema.block("user").fields))
        self.ad_tower = tower(len(schema.block("ad").fields))
        user_id, ad_id = id_fields(schema)
        self.user_id_column, self.ad_id_column = user_id.start, ad_id.start
        self.popularity = nn.Embedding(ad_id.cardinality * len(schema.domains), 1) if config.popularity else None
        self.ads_a_domain = ad_id.cardinality
        if self.popularity is not None:
            nn.init.zeros_(self.popularity.weight)

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Iu) int32, dense: (B, Nu) float32 -> (B, dimension) float32."""
        parts = [self._user(codes, dense, domain)[0]]
        if self.graph is not None:
            parts.append(self.graph.user(codes, domain))
        if self.popularity is not None:
            parts.append(torch.ones_like(parts[0][:, :1]))
        return torch.cat(parts, dim=1)

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Ia) int32, dense: (B, Na) float32 -> (B, dimension) float32."""
        parts = [self._ad(codes, dense, domain)[0]]
        if self.graph is not None:
            parts.append(self.graph.ad(codes, domain))
        if self.popularity is not None:
            parts.append(self._bias(codes, domain))
        return torch.cat(parts, dim=1)

    def training_loss(self, batch: Positives, negatives: Negatives) -> Tensor:
        """Sampled softmax over the batch's own ads and the uniform ones, plus the decay of the tokens read. The score is the
        inner product of the two embeddings, part by part: that of the graph, three quarters of their width, has no gradient."""
        domain, codes = batch.domain, negatives.ad_codes
        user_BE, user_tokens = self._user(batch.user_codes, batch.user_dense, domain)
        ad_UE, ad_tokens = self._ad(codes, negatives.ad_dense, domain)
        if self.graph is not None:
            with torch.no_grad():
                part_BE, part_UE = self.graph.user(batch.user_codes, domain), self.graph.ad(codes, domain)
                negatives = negatives._replace(offset_BU=torch.addmm(negatives.offset_BU, part_BE, part_UE.T))
        score_BU = user_BE @ ad_UE.T
        if self.popularity is not None:
            score_BU = score_BU + self._bias(codes, domain).T
        loss = sampled_softmax(score_BU, negatives)
        if self.config.embedding_l2 == 0.0:
            return loss
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

    def settle(self, measure: Callable[[], float | None]) -> None:
        if self.graph is not None:
            settle([self.graph], measure)

    def narrowed(self, side: BlockName, domain: int) -> TwoTower:
        """Without the other side's tower, too: what looks at every module of a model takes half of an export."""
        other = "ad_tower" if side == "user" else "user_tower"
        return self._with(embedding=self.embedding.narrowed(side), **{other: nn.Identity()})

    def _user(self, codes: Tensor, dense: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        """The towers' part of the embedding, and the tokens that it is made of."""
        if self.training:
            codes = self._forget(codes)
        tokens_BFE = self.embedding.block_tokens("user", codes, dense)
        embedding_BE = self.user_tower(tokens_BFE, domain)
        if self.config.normalised:  # the temperature stands in one tower only, so that the product holds it once
            embedding_BE = functional.normalize(embedding_BE, dim=1, eps=1e-6) / self.temperature
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
        return embedding_BE, tokens_BFE

    def _bias(self, codes: Tensor, domain: int) -> Tensor:
        """bias_B1: the popularity dimension of each ad."""
        assert self.popularity is not None
        bias_B1: Tensor = self.popularity(codes[:, self.ad_id_column] + domain * self.ads_a_domain)
        return bias_B1


def variant(**changes: object) -> Callable[[Any], Any]:
    """A change of a configuration's fields."""
    return lambda base: replace(base, **changes)


VARIANTS: dict[str, Callable[[Any], Any]] = {
    "normalised": variant(normalised=True, embedding_l2=0.0),
    "unnormalised": variant(normalised=False, embedding_l2=1e-2),  # nothing else bounds the norms
    "no_residual": variant(residual=False),
    "no_popularity": variant(popularity=False),
    "no_graph": variant(graph=None),
    "pooled_graph": variant(graph=GraphConfig(own_width=0)),
    "no_convolution": variant(graph=GraphConfig(convolved_width=0)),
    "no_factors": variant(graph=GraphConfig(factored_width=0)),
}
