"""Propagation over the graph of users and ads: the means of the dense formula, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from trainer.graph import normalised, propagate

NODES = 9  # 5 users, 4 ads


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("asked", [[2], [0, 3, 5, 8], list(range(NODES))])
def test_means_over_hops_and_their_gradients_are_those_of_the_dense_formula(layers: int, asked: list[int]) -> None:
    random = np.random.default_rng(layers)
    taken_UA = sparse.csr_array((random.random((5, 4)) < 0.5).astype(np.float32))
    graph_NN = normalised(taken_UA).astype(np.float64)
    dense_NN = torch.from_numpy(graph_NN.toarray())
    rows_NE = torch.from_numpy(random.standard_normal((NODES, 3))).requires_grad_()
    nodes_S = torch.tensor(asked)
    powers = torch.stack([torch.linalg.matrix_power(dense_NN, hop) for hop in range(layers + 1)])
    plain = rows_NE[nodes_S], (powers.mean(dim=0) @ rows_NE)[nodes_S]
    found = propagate(graph_NN, rows_NE, layers, nodes_S)
    torch.testing.assert_close(found, plain)
    upstream = [torch.from_numpy(random.standard_normal((len(asked), 3))) for _ in plain]
    (expected,) = torch.autograd.grad(plain, rows_NE, upstream)
    (gradient,) = torch.autograd.grad(found, rows_NE, upstream)
    torch.testing.assert_close(gradient, expected)


def test_edges_weigh_one_over_the_root_of_both_degrees() -> None:
    graph_NN = normalised(sparse.csr_array(np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32))).toarray()
    assert graph_NN.dtype == np.float32 and np.array_equal(graph_NN, graph_NN.T)
    np.testing.assert_allclose(graph_NN[:2, 2:], [[0.5, 0.5**0.5, 0.0], [0.5**0.5, 0.0, 0.0]], rtol=1e-6)
    assert not graph_NN[:2, :2].any() and not graph_NN[2:, 2:].any()
