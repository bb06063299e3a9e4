"""Pooled table rows: the same numbers and gradients as plain look-ups, for every shape of token."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_world import batch, schema

from trainer.layers import FieldEmbedding
from trainer.pooling import pooled


@settings(deadline=None)
@given(rows=st.integers(0, 9), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_values_and_gradients_are_those_of_look_ups(rows: int, lengths: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 3, generator=random).requires_grad_()
    codes = torch.randint(7, (rows, sum(lengths)), generator=random, dtype=torch.int32)
    share = torch.rand(codes.shape, generator=random)
    plain = torch.stack([one.sum(1) for one in (weight[codes.long()] * share[:, :, None]).split(lengths, dim=1)], dim=1)
    found = pooled(weight, codes, share, tuple(lengths))
    torch.testing.assert_close(found, plain)
    upstream = torch.randn(plain.shape, generator=random)
    (expected,) = torch.autograd.grad((plain * upstream).sum(), weight)
    (gradient,) = torch.autograd.grad((found * upstream).sum(), weight)
    torch.testing.assert_close(gradient, expected)


def test_the_exported_graph_looks_up_what_training_pools() -> None:
    embedding = FieldEmbedding(schema(), 4, per_domain=True).requires_grad_(False)
    inputs = batch(20).inputs
    traced = torch.jit.trace(lambda *parts: embedding(type(inputs)(*parts)), tuple(inputs[:-1]), check_trace=False)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(*inputs[:-1]), embedding(inputs))
