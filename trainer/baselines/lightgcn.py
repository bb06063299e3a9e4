"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126): id embeddings, averaged over the hops of the pooled user-ad graph; score =
inner product. Trained on the sampled softmax that all towers here have, instead of the paper's pairwise loss.

Written here and not taken from torch_geometric: that library and what it needs are 37 MiB, and its convolution gathers and
scatters edge by edge: 3 hops forth and back over XMarket's graph, 128 wide, take 1.3 s on one thread, as products with
a sparse matrix .1 s (trainer/graph.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer.baselines.id_embeddings import IdEmbeddings
from trainer.graph import interactions, normalised, propagate
from trainer.sampling import Entities, Negatives, Positives, sampled_softmax


@dataclass(frozen=True)
class LightGCNConfig:
    """embedding_l2: on the rows before propagation that a batch reads."""

    width: int = 128
    layers: int = 3
    embedding_l2: float = 1e-5
    spread: float = 0.1
    batch_size: int = 2048
    uniform_negatives: int = 512
    learning_rate: float = 1e-2
    epochs: int = 8


class LightGCN(IdEmbeddings):
    """Every training step propagates over the whole graph; what serves are the propagated tables, made on leaving training."""

    def __init__(self, schema: FeatureSchema, config: LightGCNConfig = LightGCNConfig()) -> None:
        super().__init__(schema, config.width)
        self.config = config
        self.rows = nn.Parameter(torch.randn(len(self.user_UE) + len(self.ad_AE), config.width) * config.spread)
        self.graph_NN: sparse.csr_array | None = None
        self.has_history_U = torch.zeros(len(self.user_UE), dtype=torch.bool)

    def prepare(self, tables: Entities) -> None:
        taken_UA = interactions(tables)
        self.graph_NN = normalised(taken_UA)
        self.has_history_U = torch.from_numpy(np.diff(taken_UA.indptr) > 0).to(self.rows.device)

    def extend(self, tables: Entities) -> None:
        self.prepare(tables)

    def training_loss(self, batch: Positives, negatives: Negatives) -> Tensor:
        assert self.graph_NN is not None
        users = len(self.user_UE)
        at_user, at_ad = batch.user_codes[:, self.columns[0]].long(), negatives.ad_codes[:, self.columns[1]].long() + users
        nodes_S, place = torch.unique(torch.cat([at_user, at_ad]), return_inverse=True)
        at_user, at_ad = place[: len(at_user)], place[len(at_user) :]
        own_SE, mean_SE = propagate(self.graph_NN, self.rows, self.config.layers, nodes_S)
        loss = sampled_softmax(mean_SE[at_user] @ mean_SE[at_ad].T, negatives)
        square_S = own_SE.square().sum(1)
        decay = square_S[at_user].mean() + square_S[at_ad].mean()
        return loss + self.config.embedding_l2 * decay

    def train(self, mode: bool = True) -> LightGCN:
        if self.training and not mode and self.graph_NN is not None:
            users = len(self.user_UE)
            every = torch.arange(len(self.rows))
            _, rows_NE = propagate(self.graph_NN, self.rows.detach(), self.config.layers, every)
            self.keep(rows_NE[:users], rows_NE[users:], self.has_history_U)
        return super().train(mode)


VARIANTS: dict[str, Callable[[LightGCNConfig], LightGCNConfig]] = {}
