"""Matrix factorisation of who took what in any domain, by alternating least squares (trainer/factors.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from contracts.schema import FeatureSchema
from trainer.baselines.id_embeddings import IdEmbeddings
from trainer.factors import ALSConfig, factorise
from trainer.fit import FitSettings
from trainer.graph import interactions
from trainer.sampling import Entities


class ALS(IdEmbeddings):
    def __init__(self, schema: FeatureSchema, config: ALSConfig = ALSConfig()) -> None:
        super().__init__(schema, config.factors)
        self.config = config

    def fit_whole(self, tables: Entities, settings: FitSettings) -> None:
        taken_UA = interactions(tables)
        user_UE, ad_AE = (torch.from_numpy(one) for one in factorise(taken_UA, self.config, settings.seed))
        self.keep(user_UE, ad_AE, torch.from_numpy(np.diff(taken_UA.indptr) > 0))


VARIANTS: dict[str, Callable[[ALSConfig], ALSConfig]] = {}
