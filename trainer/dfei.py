"""DFEI, automatic domain feature extraction and personalised integration (arXiv 2404.08361), extended by user-domain vectors.

    s = MLP_shared(e), u_d = MLP_d(e)
    DFE   v_d: moving average of u_d over the domain's batches (trainer/user_memory.py)
    DFI   w_j = softmax_j(<h2(e), h3(v_j)> / sqrt(k)),  z = sum_j w_j h1(v_j)
    p     = sigmoid(Dense_1(relu(Dense_32([s; u_d; z; v_d])))), a head per domain

Our extension: DFI attends over v_uj = (n_uj m_uj + kappa v_j) / (n_uj + kappa) of the row's user, and v_ud takes v_d's place
in the head. In training a row reads its user's memory before it is folded in, so it never sees its own encoding; the
memory starts empty every epoch, so it never sees itself from an earlier one either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.manifest import UserVectors
from contracts.schema import FeatureSchema
from trainer.layers import MLP, DomainTowers, FieldEmbedding, Inputs, Ranker
from trainer.tables import Batch, Tables
from trainer.user_memory import DomainAverage, Source, UserMemory


@dataclass(frozen=True)
class DFEIConfig:
    """dim: embedding width; hidden, dropout: of both kinds of tower, K = hidden[-1]; head: width of a head's hidden layer;
    alpha, horizon: of the moving average (see DomainAverage); kappa: weight of the domain's vector, in impressions;
    clicked_only: only clicked impressions enter the averages; reads_mixture, reads_own: whether the head has z, and v_ud;
    turns: the paper's schedule, shared_rate_over_domains: the part of it that is the learning rate (see DFEI)."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    dropout: tuple[float, ...] = (0.1, 0.2, 0.3)
    head: int = 32
    alpha: float = 0.9
    horizon: float | None = None
    kappa: float = 10.0
    embedding_l2: float = 1e-6
    source: Source = "average"
    per_user: bool = True
    clicked_only: bool = False
    reads_mixture: bool = True
    reads_own: bool = True
    turns: bool = False
    shared_rate_over_domains: bool = False


# Of the features themselves: whoever builds on them has these too.
FEATURE_VARIANTS: dict[str, dict[str, Any]] = {
    "v_d_only": {"per_user": False},
    "frozen_random": {"source": "random", "per_user": False},
    "learned": {"source": "learned", "per_user": False},
    "clicked_only": {"clicked_only": True},
    "no_dfi": {"reads_mixture": False},
    "no_dfe": {"source": "learned", "per_user": False, "reads_own": False},  # nothing is averaged: DFI over learned vectors
    # What alpha .9 remembers in the paper's domain-pure batches: 512 rows * .9 / (1 - .9).
    "count_alpha": {"horizon": 4608.0},
}
VARIANTS: dict[str, dict[str, Any]] = {
    **FEATURE_VARIANTS,
    "alpha_0_5": {"alpha": 0.5},
    "alpha_0_99": {"alpha": 0.99},
    "turns": {"turns": True},
    "lr_over_d": {"shared_rate_over_domains": True},
}


class DomainFeatures(nn.Module):
    """Domain towers, DFE, the users' memory and DFI: from e_Bn (flattened embeddings) to u_d, v_ud and z."""

    def __init__(self, width: int, domains: int, config: DFEIConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden[-1]
        self.towers = DomainTowers(domains, lambda: MLP(width, config.hidden, config.dropout))
        self.average = DomainAverage(domains, self.width, config.alpha, config.source, config.horizon)
        self.memory = UserMemory(domains, self.width) if config.per_user else None
        self.reads = [name for name, read in (("z", config.reads_mixture), ("v_ud", config.reads_own)) if read]
        if not config.reads_mixture:
            return
        self.value = nn.Linear(self.width, self.width)  # h1
        self.query = nn.Linear(width, self.width)  # h2
        self.key = nn.Linear(self.width, self.width, bias=False)  # h3; its bias adds one number to all j, which softmax ignores

    def encode(self, e_Bn: Tensor, domain_R: Tensor) -> Tensor:
        """u_BK, in each row's own domain."""
        u_BK: Tensor = self.towers(e_Bn, domain_R)
        return u_BK

    def training_vectors(self, batch: Batch, u_BK: Tensor) -> Tensor:
        """v_RDK as the batch's rows see it; then the batch enters the averages."""
        domain = batch.inputs.domain
        weight = batch.label if self.config.clicked_only else torch.ones_like(batch.label)
        v_DK: Tensor = self.average.update(u_BK, domain, weight)
        if self.memory is None:
            return v_DK[None]
        v_BDK = self.memory.blended(batch.user_row, v_DK, self.config.kappa)
        self.memory.fold(batch.user_row, domain, u_BK.detach(), weight)
        return v_BDK

    def served_vectors(self, user_vectors_RDK: Tensor | None) -> Tensor:
        """v_RDK: as given, or everyone's v_d."""
        if self.memory is None or user_vectors_RDK is None:
            return self.average.vectors_DK[None]
        return user_vectors_RDK

    def read(self, e_Bn: Tensor, v_RDK: Tensor, domain_R: Tensor) -> list[Tensor]:
        """What a head reads of the vectors, (B, K) each, as named in `reads`: z, and v_ud of the row's own domain."""
        found = [self.integrate(e_Bn, v_RDK)] if self.config.reads_mixture else []
        return found + ([self.own(v_RDK, domain_R, e_Bn.shape[0])] if self.config.reads_own else [])

    def integrate(self, e_Bn: Tensor, v_RDK: Tensor) -> Tensor:
        """z_BK. h3 is moved to the query's side and h1 behind the weighted sum (the weights sum to one): the same numbers at
        B D K of work for any D."""
        query_BK = self.query(e_Bn) @ self.key.weight / self.width**0.5
        if v_RDK.shape[0] == 1 and not torch.onnx.is_in_onnx_export():  # a graph also takes one row of vectors a candidate
            mixed_BK = torch.softmax(query_BK @ v_RDK[0].T, dim=1) @ v_RDK[0]
        else:
            weight_BD1 = torch.softmax(v_RDK @ query_BK[:, :, None], dim=1)
            mixed_BK = (weight_BD1 * v_RDK).sum(dim=1)
        z_BK: Tensor = self.value(mixed_BK)
        return z_BK

    def own(self, v_RDK: Tensor, domain_R: Tensor, rows: int) -> Tensor:
        """v_BK of each row's own domain."""
        if domain_R.shape[0] == 1:
            return v_RDK.index_select(1, domain_R).squeeze(1).expand(rows, -1)
        if v_RDK.shape[0] == 1:
            return v_RDK[0][domain_R]
        return v_RDK[torch.arange(rows, device=domain_R.device), domain_R]


class WithUserVectors(Ranker):
    """What a ranker with DomainFeatures offers to fit, to the feature store and to the exporter."""

    features: DomainFeatures

    @property
    def domain_vectors(self) -> Tensor:
        """v_DK, the prior of a stranger."""
        return self.features.average.vectors_DK.detach()

    def encode(self, inputs: Inputs) -> Tensor:
        """u_BK = u_d(x) of each row in its own domain: what enters m_ud."""
        return self.features.encode(self.embedding(inputs).flatten(1), inputs.domain)

    def prepare(self, tables: Tables) -> None:
        if self.features.memory is not None:
            user, domain = (torch.from_numpy(np.array(tables.column("train", one))) for one in ("user_row", "domain"))
            self.features.memory.allocate(user, domain)

    def start_epoch(self) -> None:
        if self.features.memory is not None:
            self.features.memory.forget()

    def serving_inputs(self, batch: Batch) -> Inputs:
        if self.features.memory is None:
            return batch.inputs
        v_BDK = self.features.memory.blended(batch.user_row, self.domain_vectors, self.features.config.kappa)
        return batch.inputs._replace(user_vectors=v_BDK)


class DFEI(WithUserVectors):
    """The paper feeds a domain-pure batch of each domain in turn and lets what the domains share learn at lr / D (`turns`).

    A mixed batch at lr is the same cycle in one step: every domain's average and towers move by their own rows, and the shared
    parameters once at lr instead of D times at lr / D. It is the default because real domains are far from equal in size,
    where turns starve the shared parameters: on KuaiRand-Pure's 15 tabs the mean per-domain AUC is .66 in turns after 8
    epochs, .69 mixed after 2.
    """

    def __init__(self, schema: FeatureSchema, config: DFEIConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        domains = len(schema.domains)
        self.domains = domains
        self.domain_pure = config.turns
        self.shared_rate_over_domains = config.turns or config.shared_rate_over_domains
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim)
        self.shared = MLP(self.embedding.width, config.hidden, config.dropout)
        self.features = DomainFeatures(self.embedding.width, domains, config)
        head = (2 + len(self.features.reads)) * self.features.width
        self.heads = DomainTowers(domains, lambda: MLP(head, (config.head,), output=1))
        if config.per_user:
            self.user_vectors = UserVectors(dimension=self.features.width, kappa=config.kappa)

    def forward(self, inputs: Inputs) -> Tensor:
        e_Bn = self.embedding(inputs).flatten(1)
        u_BK = self.features.encode(e_Bn, inputs.domain)
        return self._logit(e_Bn, u_BK, self.features.served_vectors(inputs.user_vectors), inputs.domain)

    def training_loss(self, batch: Batch) -> Tensor:
        e_Bn = self.embedding(batch.inputs).flatten(1)
        u_BK = self.features.encode(e_Bn, batch.inputs.domain)
        v_RDK = self.features.training_vectors(batch, u_BK)
        logit_B = self._logit(e_Bn, u_BK, v_RDK, batch.inputs.domain)
        return F.binary_cross_entropy_with_logits(logit_B, batch.label) + self.regularisation(batch.inputs)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """In turns (and where asked for without): each domain's own towers and heads at lr; the shared, which learn in every
        domain's turn, at lr / D."""
        if not self.shared_rate_over_domains:
            return super().parameter_groups(lr)
        own = [*self.features.towers.parameters(), *self.heads.parameters()]
        kept = {id(one) for one in own}
        shared = [one for one in self.parameters() if id(one) not in kept]
        return [{"params": shared, "lr": lr / self.domains}, {"params": own, "lr": lr}]

    def _logit(self, e_Bn: Tensor, u_BK: Tensor, v_RDK: Tensor, domain_R: Tensor) -> Tensor:
        known = [self.shared(e_Bn), u_BK, *self.features.read(e_Bn, v_RDK, domain_R)]
        logit_B1: Tensor = self.heads(torch.cat(known, dim=1), domain_R)
        return logit_B1.squeeze(1)
