"""Implicit matrix factorisation by alternating least squares (Hu, Koren and Volinsky, ICDM 2008), the `implicit` library's: one
factorisation of who took what in any domain.

Weighted squared error over all pairs: alpha for a pair that was taken, 1 for every other, and an L2 penalty on the factors;
users and ads in turn, each by three steps of conjugate gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from contracts.schema import FeatureSchema
from trainer.baselines.id_embeddings import IdEmbeddings
from trainer.fit import FitSettings
from trainer.graph import interactions
from trainer.sampling import Entities


@dataclass(frozen=True)
class ALSConfig:
    factors: int = 256
    alpha: float = 30.0
    regularisation: float = 3.0
    iterations: int = 15


class ALS(IdEmbeddings):
    def __init__(self, schema: FeatureSchema, config: ALSConfig = ALSConfig()) -> None:
        super().__init__(schema, config.factors)
        self.config = config

    def fit_whole(self, tables: Entities, settings: FitSettings) -> None:
        from implicit.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        config, taken_UA = self.config, interactions(tables)
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularisation,
            alpha=config.alpha,
            iterations=config.iterations,
            num_threads=torch.get_num_threads(),
            random_state=settings.seed,
            use_gpu=False,
        )
        with threadpool_limits(1, "blas"):  # many small products: BLAS threads only get into each other's way
            model.fit(taken_UA, show_progress=False)
        user_UE, ad_AE = (torch.from_numpy(np.asarray(one)) for one in (model.user_factors, model.item_factors))
        self.keep(user_UE, ad_AE, torch.from_numpy(np.diff(taken_UA.indptr) > 0))


VARIANTS: dict[str, Callable[[ALSConfig], ALSConfig]] = {}
