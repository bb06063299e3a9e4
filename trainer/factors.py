"""Implicit matrix factorisation by alternating least squares (Hu, Koren and Volinsky, ICDM 2008), the `implicit` library's, and
the rows of ads that let a user be known by the history alone.

Weighted squared error over all pairs: alpha for a pair that was taken, 1 for every other, and an L2 penalty l on the factors X of
users and Y of ads; users and ads in turn, each by three steps of conjugate gradient. A user who takes H has the factors

  x = (Y'Y + sum over H of (alpha - 1) y y' + l)^-1 sum over H of alpha y

Without the middle term, which needs a system of equations a user, x is a sum over the history: of (Y'Y + l)^-1 y d^-.3, d the
ad's degree, so that what everybody takes does not fill the sum. XMarket, validation Recall@50 of all ads of the market: .528 so,
.530 with the factors of ids; with d^0 .523.

Shapes: U user codes, A ad codes, K factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

Factors = NDArray[np.float32]

_HISTORY_POWER = 0.3
_SEED = 20_080_815
_NOTHING = 1e-12  # so little is left of factors that the penalty takes to zero


@dataclass(frozen=True)
class ALSConfig:
    """alpha and regularisation (l) by validation Recall@50, XMarket, mean of the markets / EDDA Ali-CCP d0, d2: 30 and 3 .513 /
    .123, .109; 30 and 100 .525; 100 and 200 .530 / .128, .113; 100 and 300 .530 / .125, .110. 512 factors: .534, in four times
    the time."""

    factors: int = 256
    alpha: float = 100.0
    regularisation: float = 200.0
    iterations: int = 15


def factorise(taken_UA: sparse.csr_array, config: ALSConfig, seed: int) -> tuple[Factors, Factors]:
    """X (U, K) and Y (A, K)."""
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    model = AlternatingLeastSquares(
        factors=config.factors,
        regularization=config.regularisation,
        alpha=config.alpha,
        iterations=config.iterations,
        num_threads=torch.get_num_threads(),
        random_state=seed,
        use_gpu=False,
    )
    with threadpool_limits(1, "blas"):  # many small products: BLAS threads only get into each other's way
        model.fit(sparse.csr_matrix(taken_UA), show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


def factored_rows(taken_UA: sparse.csr_array, width: int) -> tuple[Factors, Factors]:
    """What a history is summed from and what an ad is, each (A, width) float32 and of mean square norm 1; zero for an ad nobody
    took and in columns beyond the number of ads taken. The same for the same graph: a seeded start."""
    degree_A = np.asarray(taken_UA.sum(axis=0))
    ad = np.flatnonzero(degree_A)
    past_AK, row_AK = np.zeros((2, len(degree_A), width), dtype=np.float32)
    if not len(ad):
        return past_AK, row_AK
    config = ALSConfig(factors=min(width, len(ad)))
    found = factorise(taken_UA[:, ad], config, _SEED)[1].astype(np.float64)
    gram = found.T @ found + config.regularisation * np.eye(config.factors)
    columns = slice(config.factors)
    past = np.linalg.solve(gram, found.T).T * degree_A[ad, None] ** -_HISTORY_POWER
    for rows, values in ((past_AK, past), (row_AK, found)):
        rows[ad, columns] = values / max(np.sqrt(np.square(values).sum(axis=1).mean()), _NOTHING)
    return past_AK, row_AK
