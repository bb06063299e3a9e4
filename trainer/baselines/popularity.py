"""Popularity as a retriever: the inner product of a constant and the ad's smoothed log popularity in the domain, so that
index, server and evaluation treat it like any other. A counter that many published tables do not beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contracts.schema import AD_ID, FIRST, FeatureSchema
from trainer.fit import FitSettings
from trainer.sampling import Entities, training_pairs
from trainer.two_tower import TwoTower


@dataclass(frozen=True)
class PopularityConfig:
    """smoothing: counts added to every ad; an ad that is known but unseen in the domain gets log(smoothing)."""

    smoothing: float = 1.0


class Popularity(TwoTower):
    """log(n_ad,d + smoothing), n = training positives (clicks, where impressions are logged) of the ad in domain d."""

    dimension = 1
    log_count_DA: Tensor

    def __init__(self, schema: FeatureSchema, config: PopularityConfig = PopularityConfig()) -> None:
        super().__init__()
        self.config = config
        ad_id = next(field for field in schema.block("ad").fields if field.name == AD_ID)
        self.ad_id_column = ad_id.start
        lowest = torch.full((len(schema.domains), ad_id.cardinality), -torch.inf)
        self.register_buffer("log_count_DA", self._finite(lowest))

    def fit_whole(self, tables: Entities, settings: FitSettings) -> None:
        """Count each ad's training positives in each domain."""
        pairs = training_pairs(tables)
        domains, ads = self.log_count_DA.shape
        count_DA = torch.zeros(domains, ads, dtype=torch.float64)
        for domain in range(domains):
            own = pairs.of(domain)
            if len(own.ad_row):
                codes, _ = tables.ad_block(own.ad_row, domain)
                code = torch.from_numpy(codes[:, self.ad_id_column].astype("int64"))
                count_DA[domain] = torch.bincount(code, minlength=ads)
        log_count_DA = torch.log(count_DA + self.config.smoothing)
        log_count_DA[:, :FIRST] = -torch.inf  # nothing is known of an unseen ad
        self.log_count_DA.copy_(self._finite(log_count_DA))

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Iu) int32 -> (B, 1) float32, all one."""
        return torch.ones_like(codes[:, :1], dtype=torch.float32)

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Ia) int32 -> (B, 1) float32; an ad without a code of its own is below every other."""
        return self.log_count_DA[domain][codes[:, self.ad_id_column].long()][:, None]

    def _finite(self, log_count_DA: Tensor) -> Tensor:
        """-inf (nothing known) to one below the smallest possible log count: an index cannot hold infinities."""
        lowest = torch.log(torch.tensor(self.config.smoothing)) - 1.0
        return torch.where(torch.isinf(log_count_DA), lowest, log_count_DA).float()


VARIANTS: dict[str, Callable[[PopularityConfig], PopularityConfig]] = {}
