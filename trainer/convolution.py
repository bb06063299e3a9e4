"""Rows of ads learned by graph convolution, for users who are known by their history alone: LightGCN (arXiv 2002.02126) without
user ids.

h = (e + G e) / 2, e (A, W) learned and G = N' N two hops of the pooled graph, N = Du^-1/2 R Da^-1/2. A user is the sum of
Da^-1/2 h over the ads taken, which is where LightGCN's propagation puts one without an embedding of its own; the score is the
cosine of user and ad over a temperature. A training row's own ad is left out of its history.

The softmax runs over the batch's own ads and is not corrected for how often they are drawn: what is learned is how much likelier
the user takes the ad than anyone does, to stand beside a popularity that is known.

Shapes: B rows, U distinct ads of a batch, A ad codes, W columns, L history length.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from trainer.graph import id_fields, interactions
from trainer.sampling import Entities, Negatives, Positives, Sampler

# Validation Recall@10 among 99 uniform ads of the market, XMarket, beside spectrum and popularity (.660 without): .669 after 100
# steps as after 200 (alone .631 and .641). Learned beside the spectrum instead of alone it adds nothing (.642): rows made of the
# training edges tell it of them. With user ids and 7 hops, users by their history all the same: .670.
_TEMPERATURE = 0.15
_LEARNING_RATE = 1e-2
_SPREAD = 0.1
_BATCH_ROWS = 2_048
_EPOCHS, _STEPS = 10, 100  # at most; of a large log not every row is an answer, the propagation reads all of it at each step
_SEED = 20_020_212


@torch.enable_grad()  # `fit` copies what it finds without gradients
def convolved_rows(tables: Entities, history: slice, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a history is summed from, and what an ad is: Da^-1/2 h and h, each (A, width) float32; zero for an ad without edges.
    history: its columns in the user codes."""
    taken_UA = interactions(tables)
    user_degree, ad_degree = (np.asarray(taken_UA.sum(axis=axis)) for axis in (1, 0))
    of_user, of_ad = (np.maximum(one, 1.0) ** -0.5 for one in (user_degree, ad_degree))
    scaled_UA = sparse.csr_array(sparse.diags_array(of_user) @ taken_UA @ sparse.diags_array(of_ad))
    known_A1, weight_A1 = (torch.from_numpy(one)[:, None].float() for one in (ad_degree > 0, of_ad))
    start_AW = torch.randn(len(ad_degree), width, generator=torch.Generator().manual_seed(_SEED)) * _SPREAD
    learned_AW = torch.nn.Parameter(start_AW)
    optimizer = torch.optim.Adam([learned_AW], lr=_LEARNING_RATE)
    ad_column = id_fields(tables.schema)[1].start

    def rows() -> Tensor:
        return (learned_AW + _TwoHops.apply(learned_AW, scaled_UA)) * known_A1 / 2  # type: ignore[no-untyped-call, no-any-return]

    for batch, negatives in () if not taken_UA.nnz else _batches(Sampler(tables, _BATCH_ROWS, uniform=0, seed=_SEED)):
        rows_AW = rows()
        past_BL = batch.user_codes[:, history]
        user_BW = functional.normalize(functional.embedding_bag(past_BL, rows_AW * weight_A1, mode="sum"), dim=1)
        ad_UW = functional.normalize(functional.embedding(negatives.ad_codes[:, ad_column], rows_AW), dim=1)
        times_U = torch.bincount(negatives.own_B, minlength=len(ad_UW)).float()
        offset_BU = torch.where(negatives.offset_BU.isinf(), -torch.inf, times_U.log())
        offset_BU[torch.arange(len(user_BW)), negatives.own_B] = 0.0
        loss = functional.cross_entropy(user_BW @ ad_UW.T / _TEMPERATURE + offset_BU, negatives.own_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found_AW = rows()
        return (found_AW * weight_A1).numpy(), found_AW.numpy()


def _batches(sampler: Sampler) -> Iterator[tuple[Positives, Negatives]]:
    return islice(chain.from_iterable(sampler.epoch(number) for number in range(_EPOCHS)), _STEPS)


class _TwoHops(torch.autograd.Function):
    """N' (N rows): symmetric and constant, so the gradient takes the same two hops. By SciPy, which has no sparse beta."""

    @staticmethod
    def forward(ctx: Any, rows_AW: Tensor, scaled_UA: sparse.csr_array) -> Tensor:
        ctx.scaled_UA = scaled_UA
        return torch.from_numpy(scaled_UA.T @ (scaled_UA @ rows_AW.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient_AW: Tensor) -> tuple[Tensor, None]:
        scaled_UA = ctx.scaled_UA
        return torch.from_numpy(scaled_UA.T @ (scaled_UA @ gradient_AW.contiguous().numpy())), None
