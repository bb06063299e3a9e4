"""DSFM and DFEI over one embedding; the default recipe's ranker. logit = DSFM's logit + DFEI's per-domain head.

DFEI's z (the mixture of domains that this row asks for) and v_ud (the user in this domain) are two more tokens of DSFM's base
tower, and the head reads [u_d; z; v_ud]. Decisions:
- The head is in the sum, not only in the loss: u_d(x) is the only part of the model that one domain owns. KuaiRand-Pure, mean
  per-domain AUC of the scored tabs, test, mean of two seeds: head in the loss only .680, in the sum .685, in both .686.
- It has a log-loss of its own as well (`auxiliary_weight`): in the sum alone it only corrects DSFM, and nothing asks u_d(x), the
  encoding that becomes a user's features, to predict clicks by itself.
- Trained end to end on mixed batches: each domain's mean is taken over its own rows in the batch (see DFEI, why not turns).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.manifest import UserVectors
from contracts.schema import FeatureSchema
from trainer import dfei, dsfm
from trainer.dfei import DFEIConfig, DomainFeatures, WithUserVectors
from trainer.dsfm import DSFMConfig, SensitiveMemory
from trainer.layers import MLP, DomainTowers, FieldEmbedding, Inputs
from trainer.tables import Batch


@dataclass(frozen=True)
class DSFMDFEIConfig(DSFMConfig):
    """features: the DFEI half (its `dim` and `embedding_l2` are not used); auxiliary_weight: of the head's own log-loss."""

    features: DFEIConfig = field(default_factory=DFEIConfig)
    auxiliary_weight: float = 0.5


def _of_features(changes: Mapping[str, Any]) -> Callable[[DSFMDFEIConfig], DSFMDFEIConfig]:
    """A variant of the DFEI half."""
    return lambda config: replace(config, features=replace(config.features, **changes))


VARIANTS: dict[str, Mapping[str, Any] | Callable[[DSFMDFEIConfig], DSFMDFEIConfig]] = {
    **dsfm.VARIANTS,
    **{name: _of_features(changes) for name, changes in dfei.FEATURE_VARIANTS.items()},
}


class DSFMDFEI(WithUserVectors):
    """sensitive: names of the features that feed the memory. Raises BadInput when there are none or one is unknown."""

    def __init__(self, schema: FeatureSchema, config: DSFMDFEIConfig, sensitive: Sequence[str]) -> None:
        super().__init__(schema)
        self.config = config
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        self.features = DomainFeatures(self.embedding.width, len(schema.domains), config.features)
        width = self.features.width
        reads = self.features.reads
        self.heads = DomainTowers(len(schema.domains), lambda: MLP((1 + len(reads)) * width, (config.features.head,), output=1))
        self.tokens = nn.ModuleList(nn.Linear(width, config.dim) for _ in reads)
        self.memory = SensitiveMemory([*self.embedding.names, *(f"dfei_{one}" for one in reads)], config, sensitive)
        if config.features.per_user:
            self.user_vectors = UserVectors(dimension=width, kappa=config.features.kappa)

    def forward(self, inputs: Inputs) -> Tensor:
        tokens_BFE = self.embedding(inputs)
        u_BK = self.features.encode(tokens_BFE.flatten(1), inputs.domain)
        v_RDK = self.features.served_vectors(inputs.user_vectors)
        memory_B, head_B = self._logits(tokens_BFE, u_BK, v_RDK, inputs.domain)
        return memory_B + head_B

    def training_loss(self, batch: Batch) -> Tensor:
        tokens_BFE, domain_B = self.embedding(batch.inputs), batch.inputs.domain
        u_BK = self.features.encode(tokens_BFE.flatten(1), domain_B)
        v_RDK = self.features.training_vectors(batch, u_BK)
        memory_B, head_B = self._logits(tokens_BFE, u_BK, v_RDK, domain_B)
        loss = F.binary_cross_entropy_with_logits(memory_B + head_B, batch.label)
        auxiliary = F.binary_cross_entropy_with_logits(head_B, batch.label)
        return loss + self.config.auxiliary_weight * auxiliary + self.regularisation(batch.inputs)

    def _logits(self, tokens_BFE: Tensor, u_BK: Tensor, v_RDK: Tensor, domain_R: Tensor) -> tuple[Tensor, Tensor]:
        """DSFM's logit_B and the head's."""
        read = self.features.read(tokens_BFE.flatten(1), v_RDK, domain_R)
        known = [tokens_BFE, *(token(one_BK)[:, None, :] for token, one_BK in zip(self.tokens, read, strict=True))]
        head_B1: Tensor = self.heads(torch.cat([u_BK, *read], dim=1), domain_R)
        return self.memory(torch.cat(known, dim=1)), head_B1.squeeze(1)
