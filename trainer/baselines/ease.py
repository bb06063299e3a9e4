"""EASE (Steck, WWW 2019, arXiv 1905.03375): every ad as a ridge regression on all others, in closed form.

    min over W with diag W = 0 of |X - X W|^2 + l2 |W|^2    ->    W = -P / diag P off the diagonal, P = (X'X + l2 I)^-1

X (U, N): 1 where a user took the ad, in any domain. score(u, a) = sum over the ads h that u took of W[h, a].

Shapes as in histories.py; N ads compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.schema import FeatureSchema
from trainer.baselines.histories import Compare, Histories
from trainer.fit import FitSettings
from trainer.progress import progress
from trainer.sampling import Entities
from trainer.two_tower import Rows

_STEP = 1e-6  # of ties; to first order W[h, a] is the users that both have over l2 + those of h: 1e-4 and more where any are


@dataclass(frozen=True)
class EASEConfig:
    """l2: in users. XMarket's validation Recall@10 / @50 over the 6,000 most taken ads: .470 / .513 at 30, .472 / .518 at 100,
    .468 / .519 at 300, .457 / .515 at 1,000; over all 10,903: .475 / .523 at 100, .471 / .524 at 300.

    ads: at most so many, the most taken, are compared; the others stand with those that nothing speaks for. Fitting holds 12
    bytes times its square (12,000: 1.7 GB) and takes its cube in time (10,903: 38 s on one core).
    """

    l2: float = 100.0
    ads: int = 12_000


class EASE(Histories):
    """chosen_N: ad rows; weights_NN: W."""

    chosen_N: Tensor
    weights_NN: Tensor

    def __init__(self, schema: FeatureSchema, config: EASEConfig = EASEConfig()) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("chosen_N", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("weights_NN", torch.zeros(0, 0))

    @torch.no_grad()
    def fit_whole(self, tables: Entities, settings: FitSettings) -> None:
        super().fit_whole(tables, settings)
        taken_UA = self.taken(tables)
        count_A = taken_UA.sum(axis=0)
        seen = int((count_A > 0).sum())
        kept = min(seen, self.config.ads)
        with progress("EASE", 1) as bar:
            if kept < seen:
                bar.say(f"EASE compares the {kept:,} most taken of {seen:,} ads: each by each, they are held at once")
            chosen_N = np.sort(np.argsort(-count_A, kind="stable")[:kept])
            taken_UN = taken_UA[:, chosen_N]
            gram_NN = torch.from_numpy((taken_UN.T @ taken_UN).toarray())
            self.chosen_N, self.weights_NN = torch.from_numpy(chosen_N), regression(gram_NN, self.config.l2)
            bar.advance()

    def comparison(self, tables: Entities, ad_rows: Rows, domain: int) -> tuple[Compare, float]:
        chosen_N, weights_NN = self.chosen_N.cpu().numpy(), self.weights_NN.cpu().numpy()
        taken_UN = self.taken(tables)[:, chosen_N]
        inside_C = np.isin(ad_rows, chosen_N)
        columns = np.searchsorted(chosen_N, ad_rows[inside_C])

        def compare(user_rows: Rows) -> NDArray[np.float32]:
            score_BC = np.zeros((len(user_rows), len(ad_rows)), dtype=np.float32)
            score_BC[:, inside_C] = (taken_UN[user_rows] @ weights_NN)[:, columns]
            return score_BC

        return compare, _STEP


def regression(gram_NN: Tensor, l2: float) -> Tensor:
    """W of X'X, which is overwritten."""
    gram_NN.diagonal().add_(l2)
    inverse_NN = torch.cholesky_inverse(torch.linalg.cholesky(gram_NN, out=gram_NN))
    inverse_NN = inverse_NN.mT.contiguous()  # symmetric, but column by column: every product would copy it first
    weights_NN = inverse_NN.div_(-inverse_NN.diagonal().clone())
    weights_NN.diagonal().zero_()
    return weights_NN
