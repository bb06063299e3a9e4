"""What DFEI remembers: v_d, a moving average of encodings per domain, and m_ud, a running mean per user and domain.

Shape suffixes as in layers.py; P (user, domain) pairs with training impressions, the only ones stored.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Source = Literal["average", "random", "learned"]


class DomainAverage(nn.Module):
    """v_DK. source `average` is DFE (arXiv 2404.08361): in training v_d <- alpha v_d + (1 - alpha) mean_{batch rows of d} u_d(x),
    the batch's mean carrying gradient and the history none; the first batch of a domain sets it; in eval mode it is frozen.
    `random`: never changes (what the released code computes); `learned`: a parameter.

    horizon: in rows, in place of alpha: alpha_t = n_d / (n_d + b_d) with b_d rows of d in the batch, then n_d <- n_d + b_d, at
    most the horizon. It is the mean of all rows so far, and from `horizon` rows on a window of about that many, however they
    fall into batches. A constant alpha averages over batches instead, so in mixed ones over few rows where a domain is small.
    """

    vectors_DK: Tensor
    rows_D: Tensor

    def __init__(self, domains: int, width: int, alpha: float, source: Source = "average", horizon: float | None = None) -> None:
        super().__init__()
        self.alpha = alpha
        self.horizon = horizon
        self.source = source
        start = torch.zeros(domains, width) if source == "average" else torch.randn(domains, width)
        if source == "learned":
            self.vectors_DK = nn.Parameter(start)
        else:
            self.register_buffer("vectors_DK", start)
        if source == "average":
            self.register_buffer("rows_D", torch.zeros(domains))

    def update(self, u_BK: Tensor, domain_B: Tensor, weight_B: Tensor) -> Tensor:
        """The new v_DK. weight_B: each row's share in its domain's mean; a domain without weight in the batch stays.

        The means are taken per domain inside the batch: in a domain-pure batch this is the paper's step, and in a mixed one
        the same step for every domain that is present.
        """
        if self.source != "average":
            return self.vectors_DK
        total_DK = torch.zeros_like(self.vectors_DK).index_add(0, domain_B, u_BK * weight_B[:, None])
        count_D = torch.zeros_like(self.vectors_DK[:, 0]).index_add(0, domain_B, weight_B)
        present_D = count_D > 0
        mean_DK = total_DK / count_D.clamp(min=1e-12)[:, None]
        seen_D = self.rows_D
        alpha_D = self.alpha * (seen_D > 0) if self.horizon is None else seen_D / (seen_D + count_D).clamp(min=1e-12)
        alpha_D1 = alpha_D[:, None]
        moved_DK = torch.where(present_D[:, None], alpha_D1 * self.vectors_DK + (1.0 - alpha_D1) * mean_DK, self.vectors_DK)
        self.vectors_DK = moved_DK.detach()
        self.rows_D = (seen_D + count_D).clamp(max=self.horizon or math.inf)
        return moved_DK


class UserMemory(nn.Module):
    """Running means m_ud over u_d(x) of a user's impressions in d, with counts n_ud. No gradient passes through it."""

    pairs_P: Tensor
    vectors_PK: Tensor
    counts_P: Tensor

    def __init__(self, domains: int, width: int) -> None:
        super().__init__()
        self.domains = domains
        self.register_buffer("pairs_P", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("vectors_PK", torch.zeros(0, width))
        self.register_buffer("counts_P", torch.zeros(0))

    def allocate(self, user_N: Tensor, domain_N: Tensor) -> None:
        """Room for every (user, domain) pair among N impressions; all else is a stranger."""
        self.pairs_P = torch.unique(user_N.long() * self.domains + domain_N.long()).to(self.pairs_P.device)
        self.vectors_PK = self.vectors_PK.new_zeros(len(self.pairs_P), self.vectors_PK.shape[1])
        self.counts_P = self.counts_P.new_zeros(len(self.pairs_P))

    def forget(self) -> None:
        """Everyone is a stranger again."""
        self.vectors_PK = torch.zeros_like(self.vectors_PK)
        self.counts_P = torch.zeros_like(self.counts_P)

    def blended(self, user_B: Tensor, prior_DK: Tensor, kappa: float) -> Tensor:
        """v_BDK = (n m + kappa v) / (n + kappa): what contracts.user_row.blend serves. n = 0: the domain's own vector."""
        if len(self.pairs_P) == 0:
            return prior_DK.expand(len(user_B), -1, -1)
        every_BD = user_B.long()[:, None] * self.domains + torch.arange(self.domains, device=user_B.device)
        slot_BD, known_BD = self._find(every_BD)
        n_BD1 = (self.counts_P[slot_BD] * known_BD)[:, :, None]
        return (n_BD1 * self.vectors_PK[slot_BD] + kappa * prior_DK) / (n_BD1 + kappa)

    @torch.no_grad()
    def fold(self, user_B: Tensor, domain_B: Tensor, u_BK: Tensor, weight_B: Tensor) -> None:
        """n <- n + w, m <- (n m + w u) / (n + w), for all impressions of the batch at once; unknown pairs are left out."""
        slot_B, known_B = self._find(user_B.long() * self.domains + domain_B)
        kept = known_B & (weight_B > 0)
        slots, where = torch.unique(slot_B[kept], return_inverse=True)
        weight = weight_B[kept]
        added_SK = torch.zeros(len(slots), u_BK.shape[1], device=u_BK.device).index_add_(0, where, u_BK[kept] * weight[:, None])
        added_S = torch.zeros(len(slots), device=u_BK.device).index_add_(0, where, weight)
        n = self.counts_P[slots]
        self.vectors_PK[slots] = (n[:, None] * self.vectors_PK[slots] + added_SK) / (n + added_S)[:, None]
        self.counts_P[slots] = n + added_S

    def _find(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Slot of each pair, and whether it has one."""
        if len(self.pairs_P) == 0:
            return torch.zeros_like(pairs), torch.zeros_like(pairs, dtype=torch.bool)
        slot = torch.searchsorted(self.pairs_P, pairs).clamp(max=len(self.pairs_P) - 1)
        return slot, self.pairs_P[slot] == pairs
