"""The bipartite graph of users and the ads they took, all domains pooled, nodes by id code: what matrix factorisation and
graph convolution read, and what any tower may start from.

Shapes: U user codes, A ad codes, N = U + A nodes (users first), E embedding width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from contracts.schema import AD_ID, FIRST, USER_ID, FeatureSchema, ModelField
from trainer.sampling import Entities, training_pairs

_CHUNK_ROWS = 8_192


def id_fields(schema: FeatureSchema) -> tuple[ModelField, ModelField]:
    """Where user_id stands in the user block, and ad_id in the ad block."""
    user = next(one for one in schema.block("user").fields if one.name == USER_ID)
    return user, next(one for one in schema.block("ad").fields if one.name == AD_ID)


def interactions(tables: Entities, domain: int | None = None) -> sparse.csr_array:
    """(U, A) float32, 1 where a user took an ad in the training split, in any domain or in the one given. Pairs with an id that
    has no code of its own (seen once: trainer/freeze.py) are left out: taken together as one node, strangers are nobody's
    neighbours."""
    pairs, (user, ad) = training_pairs(tables), id_fields(tables.schema)
    pairs = pairs if domain is None else pairs.of(domain)
    user_code = id_codes(tables.user_block, pairs.user_row, user.start)
    ad_code = id_codes(tables.ad_block, pairs.ad_row, ad.start)
    known = (user_code >= FIRST) & (ad_code >= FIRST)
    key = np.unique(user_code[known] * ad.cardinality + ad_code[known])
    ones = np.ones(len(key), dtype=np.float32)
    return sparse.csr_array((ones, (key // ad.cardinality, key % ad.cardinality)), (user.cardinality, ad.cardinality))


def normalised(taken_UA: sparse.csr_array) -> sparse.csr_array:
    """(N, N) float32: the symmetric adjacency, each edge over the square root of both its ends' degrees. A node without
    edges has an empty row."""
    user, ad = (np.maximum(np.asarray(taken_UA.sum(axis=axis)), 1.0) ** -0.5 for axis in (1, 0))
    scaled_UA = sparse.diags_array(user) @ taken_UA @ sparse.diags_array(ad)
    return sparse.block_array([[None, scaled_UA], [scaled_UA.T, None]], format="csr", dtype=np.float32)


def propagate(graph_NN: sparse.csr_array, rows_NE: Tensor, layers: int, nodes_S: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `nodes_S` (each once, rising) as they are, and their mean over the layers 0 .. `layers` of graph^k @ rows (N, E):
    LightGCN (arXiv 2002.02126), equations 7 and 8.

    Of the last hop only the rows asked for are made, and the gradient's first hop starts from them alone. By SciPy: XMarket's
    graph, 128 wide, one thread, takes it 19 ms a hop and torch 32.
    """
    return _Propagated.apply(rows_NE, graph_NN, layers, nodes_S)  # type: ignore[no-untyped-call, no-any-return]


class _Propagated(torch.autograd.Function):
    """The graph is symmetric and constant, so the gradient g of the means takes the same hops: (g + G (g + G (g + ...))) / n."""

    @staticmethod
    def forward(ctx: Any, rows_NE: Tensor, graph_NN: sparse.csr_array, layers: int, nodes_S: Tensor) -> tuple[Tensor, Tensor]:
        nodes, hop_NE = nodes_S.cpu().numpy(), rows_NE.detach().cpu().numpy()
        ctx.asked_SN, ctx.graph_NN, ctx.layers, ctx.nodes = graph_NN[nodes], graph_NN, layers, nodes
        own_SE = hop_NE[nodes]
        total_SE = own_SE.copy()
        for layer in range(layers):
            last = layer == layers - 1
            hop_NE = (ctx.asked_SN if last else graph_NN) @ hop_NE
            total_SE += hop_NE if last else hop_NE[nodes]
        return tuple(torch.from_numpy(one).to(rows_NE.device) for one in (own_SE, total_SE / (layers + 1)))  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, own_SE: Tensor, mean_SE: Tensor) -> tuple[Tensor, None, None, None]:
        share_SE = mean_SE.cpu().numpy() / (ctx.layers + 1)
        total_NE = np.zeros((ctx.graph_NN.shape[0], share_SE.shape[1]), dtype=share_SE.dtype)
        total_NE[ctx.nodes] = share_SE
        for layer in range(ctx.layers):
            total_NE = ctx.asked_SN.T @ share_SE if layer == 0 else ctx.graph_NN @ total_NE
            total_NE[ctx.nodes] += share_SE
        total_NE[ctx.nodes] += own_SE.cpu().numpy()
        return torch.from_numpy(total_NE).to(mean_SE.device), None, None, None


def id_codes(block: Any, rows: NDArray[np.int64], column: int) -> NDArray[np.int64]:
    """The id code of each row; an id's code is the same in every domain."""
    distinct, at = np.unique(rows, return_inverse=True)
    codes = np.empty(len(distinct), dtype=np.int64)
    for start in range(0, len(distinct), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        codes[part] = block(distinct[part], 0)[0][:, column]
    return codes[at]
