"""Attention against its definition, pair by pair, and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainer.attention import Retriever, linear_attention, phi, softmax_attention


def pairwise_attention(query: Tensor, key: Tensor, value: Tensor, softmax: bool) -> Tensor:
    out = torch.zeros(query.shape[0], query.shape[1], value.shape[2])
    for row in range(query.shape[0]):
        for i in range(query.shape[1]):
            if softmax:
                weight = torch.stack([torch.exp(query[row, i] @ one / math.sqrt(query.shape[2])) for one in key[row]])
            else:
                elu = torch.nn.functional.elu
                weight = torch.stack([(elu(query[row, i]) + 1) @ (elu(one) + 1) for one in key[row]])
            out[row, i] = (weight[:, None] * value[row]).sum(dim=0) / weight.sum()
    return out


@pytest.mark.parametrize(("attend", "softmax"), [(linear_attention, False), (softmax_attention, True)])
def test_equals_the_sum_over_pairs(attend, softmax: bool) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 5, 4), torch.randn(3, 7, 4), torch.randn(3, 7, 2)
    torch.testing.assert_close(attend(query, key, value), pairwise_attention(query, key, value, softmax), atol=1e-5, rtol=1e-5)


def test_linear_attention_worked_out() -> None:
    """phi(0) = 1, phi(1) = 2, phi(-ln 2) = 1/2. One query 0; keys 1 and -ln 2 with values 10 and 5: (2*10 + .5*5) / 2.5 = 9."""
    key = torch.tensor([[[1.0], [-math.log(2.0)]]])
    torch.testing.assert_close(
        linear_attention(torch.zeros(1, 1, 1), key, torch.tensor([[[10.0], [5.0]]])), torch.tensor([[[9.0]]])
    )


def test_phi_is_elu_plus_one() -> None:
    x = torch.linspace(-20, 20, 401)
    torch.testing.assert_close(phi(x), torch.nn.functional.elu(x) + 1)
    assert (phi(x) > 0).all()


def _stirred(retriever: Retriever) -> Retriever:
    with torch.no_grad():
        for one in retriever.parameters():
            one.normal_(std=0.7)
    return retriever


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("width", [1, 6])
def test_retriever_is_the_printed_formula(softmax: bool, width: int) -> None:
    torch.manual_seed(1)
    block = _stirred(Retriever(width, 4, softmax))
    z, ze = torch.randn(3, 5, width), torch.randn(3, 7, width)
    read = pairwise_attention(z @ block.query.weight.T, ze @ block.key.weight.T, ze @ block.value.weight.T, softmax)
    za = z + read @ block.output.weight.T
    fed = torch.relu(za @ block.widen.weight.T + block.widen.bias) @ block.narrow.weight.T + block.narrow.bias
    torch.testing.assert_close(block(z, ze), za + fed, atol=1e-4, rtol=1e-4)


def test_units_are_exchangeable_unless_they_have_an_offset() -> None:
    torch.manual_seed(2)
    z, ze = torch.randn(2, 6, 1), torch.randn(2, 6, 1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    plain, offset = _stirred(Retriever(1, 4)), _stirred(Retriever(1, 4, units=(6, 6)))
    torch.testing.assert_close(plain(z[:, order], ze), plain(z, ze)[:, order])
    torch.testing.assert_close(plain(z, ze[:, order]), plain(z, ze))
    assert (offset(z[:, order], ze) - offset(z, ze)[:, order]).abs().max() > 1e-3
    assert (offset(z, ze[:, order]) - offset(z, ze)).abs().max() > 1e-3


def test_a_new_retriever_is_close_to_the_identity() -> None:
    torch.manual_seed(3)
    z = torch.randn(8, 5, 16)
    assert (Retriever(16, 16)(z, torch.randn(8, 3, 16)) - z).abs().max() < 0.2
