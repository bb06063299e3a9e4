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


def normalised(taken_UA: sparse.csr_array) -> Tensor:
    """(N, N) sparse CSR: the symmetric adjacency, each edge over the square root of both its ends' degrees. A node without
    edges has an empty row."""
    user, ad = (np.maximum(np.asarray(taken_UA.sum(axis=axis)), 1.0) ** -0.5 for axis in (1, 0))
    scaled_UA = sparse.diags_array(user) @ taken_UA @ sparse.diags_array(ad)
    graph = sparse.block_array([[None, scaled_UA], [scaled_UA.T, None]], format="csr")
    first, other = torch.from_numpy(graph.indptr.astype(np.int64)), torch.from_numpy(graph.indices.astype(np.int64))
    values = torch.from_numpy(graph.data.astype(np.float32))
    return torch.sparse_csr_tensor(first, other, values, graph.shape, check_invariants=False)


def propagate(graph_NN: Tensor, rows_NE: Tensor, layers: int) -> Tensor:
    """Mean over the layers 0 .. `layers` of graph^k @ rows (N, E): LightGCN (arXiv 2002.02126), equations 7 and 8."""
    total_NE = rows_NE
    for _ in range(layers):
        rows_NE = _Hop.apply(graph_NN, rows_NE)  # type: ignore[no-untyped-call]
        total_NE = total_NE + rows_NE
    return total_NE / (layers + 1)


class _Hop(torch.autograd.Function):
    """graph @ rows. The graph is symmetric and constant, so the gradient is one more hop; torch would transpose it each time."""

    @staticmethod
    def forward(ctx: Any, graph_NN: Tensor, rows_NE: Tensor) -> Tensor:
        ctx.save_for_backward(graph_NN)
        return graph_NN @ rows_NE

    @staticmethod
    def backward(ctx: Any, gradient_NE: Tensor) -> tuple[None, Tensor]:
        (graph_NN,) = ctx.saved_tensors
        return None, graph_NN @ gradient_NE


def id_codes(block: Any, rows: NDArray[np.int64], column: int) -> NDArray[np.int64]:
    """The id code of each row; an id's code is the same in every domain."""
    distinct, at = np.unique(rows, return_inverse=True)
    codes = np.empty(len(distinct), dtype=np.int64)
    for start in range(0, len(distinct), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        codes[part] = block(distinct[part], 0)[0][:, column]
    return codes[at]
