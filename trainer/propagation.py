"""Rows of ads by LightGCN (arXiv 2002.02126) on a graph that loses some of its edges at each step: what is asked at a step are
the edges that were lost, so no row is told its own answer. Nodes are users and ads of the pooled graph, h = mean of layers 0 to 3
of N^k e, N the symmetrically normalised adjacency. The score h_u . h_a of a taken ad stands against those of uniform ads of the
row's domain, so it says how popular an ad is as well.

Afterwards a user is the sum of Da^-1/2 h_a over the history, where one more hop would put it, and needs no id.

Shapes: U users, A ad codes, N = U + A nodes, W columns, B rows, C drawn ads a row, E edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from contracts.schema import FIRST
from trainer.graph import id_codes, id_fields
from trainer.sampling import Entities, training_pairs

# XMarket's validation pairs, Recall@10 among 99 uniform ads, by this score alone: .645 .655 .652 .645 after 50, 75, 100, 125
# steps; with all edges kept .642 .649 .646 .642; without rows for users, at 4e-2, .636 .651 .654 .653. Among other signals, by
# a network fitted on one half of the users and judged on the other: .692, without rows for users .690, by
# trainer/convolution.py .688.
_STEPS, _BATCH_ROWS, _DRAWN = 75, 16_384, 4
_LEARNING_RATE = 2e-2
_SPREAD = 0.1
_LOST = 0.3
_LAYERS = 3
_SEED = 20_020_213


@torch.enable_grad()
def propagated_rows(tables: Entities, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a history is summed from, Da^-1/2 h, and what an ad is, h: (A, width) float32 each; zero for an ad without edges."""
    user, ad = id_fields(tables.schema)
    pairs = training_pairs(tables)
    user_P, ad_P = id_codes(tables.user_block, pairs.user_row, user.start), id_codes(tables.ad_block, pairs.ad_row, ad.start)
    known = (user_P >= FIRST) & (ad_P >= FIRST)
    edge_E, edge_P = np.unique(user_P[known] * ad.cardinality + ad_P[known], return_inverse=True)
    user_E, ad_E = edge_E // ad.cardinality, edge_E % ad.cardinality
    domain_P = pairs.domain[known]
    pools = [
        id_codes(tables.ad_block, tables.eligible(one).astype(np.int64), ad.start) for one in range(len(tables.schema.domains))
    ]
    first_D = np.cumsum([0, *(len(one) for one in pools)])
    pool = np.concatenate(pools)
    start = torch.randn(user.cardinality + ad.cardinality, width, generator=torch.Generator().manual_seed(_SEED)) * _SPREAD
    rows_NW = torch.nn.Parameter(start)
    optimizer = torch.optim.Adam([rows_NW], lr=_LEARNING_RATE, fused=True)
    rng = np.random.default_rng(_SEED)
    shape = (user.cardinality, ad.cardinality)
    for _ in range(_STEPS if len(edge_E) else 0):
        lost_E = rng.random(len(edge_E)) < _LOST
        asked = np.flatnonzero(lost_E[edge_P] & (np.diff(first_D) > 0)[domain_P])
        if not len(asked):
            continue
        asked = rng.choice(asked, min(_BATCH_ROWS, len(asked)), replace=False)
        low, high = first_D[domain_P[asked]], first_D[domain_P[asked] + 1]
        drawn_BC = pool[rng.integers(low[:, None], high[:, None], (len(asked), _DRAWN))]
        edge_B = edge_P[asked]
        found_NW = _propagated(rows_NW, _normalised(user_E[~lost_E], ad_E[~lost_E], shape))
        user_BW = found_NW[torch.from_numpy(user_E[edge_B])]
        ads_BC = torch.from_numpy(np.column_stack([ad_E[edge_B], drawn_BC]) + user.cardinality)
        score_BC = torch.einsum("bw,bcw->bc", user_BW, functional.embedding(ads_BC, found_NW))
        loss = functional.cross_entropy(score_BC, torch.zeros(len(asked), dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found_AW = _propagated(rows_NW, _normalised(user_E, ad_E, shape))[user.cardinality :].numpy()
    degree_A1 = np.bincount(ad_E, minlength=ad.cardinality)[:, None]
    found_AW = np.where(degree_A1 > 0, found_AW, np.float32(0))
    return (found_AW * np.maximum(degree_A1, 1.0) ** -0.5).astype(np.float32), found_AW


def _normalised(user_E: NDArray[np.int64], ad_E: NDArray[np.int64], shape: tuple[int, int]) -> sparse.csr_array:
    """(N, N): each edge over the square root of both its ends' degrees."""
    of_user, of_ad = (
        np.maximum(np.bincount(one, minlength=size), 1) ** -0.5 for one, size in zip((user_E, ad_E), shape, strict=True)
    )
    edges_UA = sparse.csr_array(((of_user[user_E] * of_ad[ad_E]).astype(np.float32), (user_E, ad_E)), shape)
    return sparse.csr_array(sparse.block_array([[None, edges_UA], [edges_UA.T, None]], format="csr"))


def _propagated(rows_NW: Tensor, graph_NN: sparse.csr_array) -> Tensor:
    total_NW = rows_NW
    for _ in range(_LAYERS):
        rows_NW = _Hop.apply(rows_NW, graph_NN)  # type: ignore[no-untyped-call]
        total_NW = total_NW + rows_NW
    return total_NW / (_LAYERS + 1)


class _Hop(torch.autograd.Function):
    """The graph is symmetric and constant, so the gradient takes the same hop. By SciPy: the graph is new at each step."""

    @staticmethod
    def forward(ctx: Any, rows_NW: Tensor, graph_NN: sparse.csr_array) -> Tensor:
        ctx.graph_NN = graph_NN
        return torch.from_numpy(graph_NN @ rows_NW.detach().numpy())

    @staticmethod
    def backward(ctx: Any, gradient_NW: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.graph_NN @ gradient_NW.contiguous().numpy()), None
