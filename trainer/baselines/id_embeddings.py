"""Two tables of embeddings by id code, as factorisations and graph models leave them behind: looked up, exported as towers and
served as such, whatever the domain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from contracts.schema import FIRST, FeatureSchema
from trainer.graph import id_fields
from trainer.two_tower import TwoTower


class IdEmbeddings(TwoTower):
    """user_UE, ad_AE: a row a code. A user without a code of its own stands at the mean of those who have one, and so sees what
    most take; such an ad stands at zero."""

    user_UE: Tensor
    ad_AE: Tensor

    def __init__(self, schema: FeatureSchema, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        user, ad = id_fields(schema)
        self.columns = user.start, ad.start
        self.register_buffer("user_UE", torch.zeros(user.cardinality, dimension))
        self.register_buffer("ad_AE", torch.zeros(ad.cardinality, dimension))

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Iu) int32 -> (B, E) float32."""
        return functional.embedding(codes[:, self.columns[0]], self.user_UE)

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Ia) int32 -> (B, E) float32."""
        return functional.embedding(codes[:, self.columns[1]], self.ad_AE)

    @torch.no_grad()
    def keep(self, user_UE: Tensor, ad_AE: Tensor, has_history_U: Tensor) -> None:
        """Take over what was fitted. has_history_U: (U,) bool, users with an ad to be known by."""
        mean_E = user_UE[has_history_U].mean(dim=0) if has_history_U.any() else torch.zeros_like(user_UE[0])
        self.user_UE.copy_(torch.where(has_history_U[:, None], user_UE, mean_E))
        self.ad_AE.copy_(ad_AE)
        self.ad_AE[:FIRST] = 0.0
