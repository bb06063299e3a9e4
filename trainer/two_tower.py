"""What every retriever is: two embeddings of one width whose inner product ranks the ads of a domain."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainer.sampling import Entities, Negatives, Positives, sampled_softmax


class TwoTower(nn.Module):
    """Base of retrievers. dimension: E. The domain is a Python int: a batch is domain-pure, an exported graph holds one."""

    dimension: int

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Iu) int32, dense: (B, Nu) float32 -> (B, E) float32."""
        raise NotImplementedError

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Ia) int32, dense: (B, Na) float32 -> (B, E) float32."""
        raise NotImplementedError

    def prepare(self, tables: Entities) -> None:
        """Start from what the training positives tell; called once before training, and before loading a checkpoint."""

    def training_loss(self, batch: Positives, negatives: Negatives) -> Tensor:
        """Sampled softmax of the batch's positives against its own ads and the uniform ones."""
        user_BE = self.user_embedding(batch.user_codes, batch.user_dense, batch.domain)
        ad_UE = self.ad_embedding(negatives.ad_codes, negatives.ad_dense, batch.domain)
        return sampled_softmax(user_BE @ ad_UE.T, negatives)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups, each with its learning rate."""
        return [{"params": list(self.parameters()), "lr": lr}]
