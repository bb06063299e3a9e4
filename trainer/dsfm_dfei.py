"""DSFM whose inputs also hold what DFEI knows of the user and the domain; the default recipe's ranker.

DFEI's z (the mixture of domains that this row asks for) and v_ud (the user in this domain) become two more tokens of the
base tower. Decisions:
- One shared embedding, trained end to end, and DFEI's own head as an auxiliary loss. Without that head nothing asks u_d(x) to
  predict clicks: the averages it feeds carry a gradient of weight (1 - alpha) only, through v_d alone, and none through a
  user's history.
- Mixed batches. Each domain's mean is taken over its own rows in the batch, which is the same moving average (see
  DomainAverage), and one step for all domains at lr keeps DFEI's ratio of shared to domain learning rates without turns.
- Serving needs z and v_ud, not u_d(x): the exported graph holds no domain tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.manifest import UserVectors
from contracts.schema import FeatureSchema
from trainer import dsfm
from trainer.dfei import DFEIConfig, DomainFeatures, WithUserVectors
from trainer.dsfm import DSFMConfig, SensitiveMemory
from trainer.layers import MLP, DomainTowers, FieldEmbedding, Inputs
from trainer.tables import Batch


@dataclass(frozen=True)
class DSFMDFEIConfig(DSFMConfig):
    """features: the DFEI half (its `dim` and `embedding_l2` are not used); auxiliary_weight: of DFEI's own log-loss."""

    features: DFEIConfig = field(default_factory=DFEIConfig)
    auxiliary_weight: float = 0.5


VARIANTS: dict[str, dict[str, Any]] = {
    **dsfm.VARIANTS,
    "v_d_only": {"features": DFEIConfig(per_user=False)},
}


class DSFMDFEI(WithUserVectors):
    """sensitive: names of the features that feed the memory. Raises BadInput when there are none or one is unknown."""

    def __init__(self, schema: FeatureSchema, config: DSFMDFEIConfig, sensitive: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        self.features = DomainFeatures(self.embedding.width, len(schema.domains), config.features)
        width = self.features.width
        self.heads = DomainTowers(len(schema.domains), lambda: MLP(3 * width, (config.features.head,), output=1))
        self.mixture_token = nn.Linear(width, config.dim)
        self.own_token = nn.Linear(width, config.dim)
        self.memory = SensitiveMemory([*self.embedding.names, "dfei_z", "dfei_v_ud"], config, sensitive)
        if config.features.per_user:
            self.user_vectors = UserVectors(dimension=width, kappa=config.features.kappa)

    def forward(self, inputs: Inputs) -> Tensor:
        tokens_BFE = self.embedding(inputs)
        v_RDK = self.features.served_vectors(inputs.user_vectors)
        logit_B, _, _ = self._logit(tokens_BFE, v_RDK, inputs.domain)
        return logit_B

    def training_loss(self, batch: Batch) -> Tensor:
        tokens_BFE, domain_B = self.embedding(batch.inputs), batch.inputs.domain
        u_BK = self.features.encode(tokens_BFE.flatten(1), domain_B)
        v_RDK = self.features.training_vectors(batch, u_BK)
        logit_B, z_BK, own_BK = self._logit(tokens_BFE, v_RDK, domain_B)
        head_B = self.heads(torch.cat([u_BK, z_BK, own_BK], dim=1), domain_B).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logit_B, batch.label)
        auxiliary = F.binary_cross_entropy_with_logits(head_B, batch.label)
        return loss + self.config.auxiliary_weight * auxiliary + self.regularisation(batch.inputs)

    def _logit(self, tokens_BFE: Tensor, v_RDK: Tensor, domain_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """logit_B, z_BK, v_ud_BK."""
        z_BK = self.features.integrate(tokens_BFE.flatten(1), v_RDK)
        own_BK = self.features.own(v_RDK, domain_R, tokens_BFE.shape[0])
        known = [tokens_BFE, self.mixture_token(z_BK)[:, None, :], self.own_token(own_BK)[:, None, :]]
        return self.memory(torch.cat(known, dim=1)), z_BK, own_BK
