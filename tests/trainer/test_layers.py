"""Embeddings, per-domain towers and their bookkeeping."""

from __future__ import annotations

import pytest
import torch
from ranker_world import LENGTH, batch, schema

from contracts.schema import FIRST, PAD
from trainer.layers import MLP, DomainTowers, FieldEmbedding, rows_by_domain


def _token(embedding: FieldEmbedding, tokens: torch.Tensor, name: str) -> torch.Tensor:
    return tokens[:, embedding.names.index(name)]


def test_tokens_are_named_in_order() -> None:
    embedding = FieldEmbedding(schema(), 4, with_domain_token=True)
    assert embedding.names == ["user_id", "taste", "seen", "age", "hour", "ad_id", "style", "price", "domain"]
    assert embedding(batch(7).inputs).shape == (7, 9, 4) and embedding.width == 36
    assert FieldEmbedding(schema(), 4, blocks=("ad",)).names == embedding.block_fields("ad") == ["ad_id", "style", "price"]


def test_a_sequence_is_the_mean_of_the_ads_it_holds() -> None:
    embedding = FieldEmbedding(schema(), 4)
    inputs = batch(3).inputs
    inputs.user_codes[:, 2:] = PAD
    inputs.user_codes[0, 2:4] = torch.tensor([FIRST, FIRST + 3], dtype=torch.int32)
    ads = inputs.ad_codes.clone()
    ads[:2, 0] = torch.tensor([FIRST, FIRST + 3])
    tokens = embedding(inputs._replace(ad_codes=ads))
    ad_E = _token(embedding, tokens, "ad_id")  # the same table: rows of the ads themselves
    torch.testing.assert_close(_token(embedding, tokens, "seen")[0], (ad_E[0] + ad_E[1]) / 2)
    assert _token(embedding, tokens, "seen")[1:].abs().sum() == 0


def test_a_number_is_its_value_times_a_vector() -> None:
    embedding = FieldEmbedding(schema(), 4)
    inputs = batch(2).inputs._replace(user_dense=torch.tensor([[0.0], [2.0]]))
    at_zero, at_two = _token(embedding, embedding(inputs), "age")
    torch.testing.assert_close(at_two - at_zero, 2 * embedding._block["user"].dense_weight[0, 0])  # type: ignore[index]


def test_fields_do_not_share_rows_unless_they_share_a_table() -> None:
    embedding = FieldEmbedding(schema(), 4)
    inputs = batch(1).inputs
    _token(embedding, embedding(inputs), "style").sum().backward()
    touched = embedding.weight.grad.abs().sum(dim=1).nonzero().squeeze(1).tolist()  # type: ignore[union-attr]
    assert len(touched) == 1
    embedding.weight.grad = None
    others = [name for name in embedding.names if name != "style"]
    torch.stack([_token(embedding, embedding(inputs), name).sum() for name in others]).sum().backward()
    assert embedding.weight.grad[touched[0]].abs().sum() == 0  # type: ignore[index]


def test_penalty_counts_each_touched_row_once() -> None:
    embedding = FieldEmbedding(schema(), 4)
    with torch.no_grad():
        embedding.weight.fill_(1.0)
    inputs = batch(1).inputs
    inputs.user_codes[:, 2:] = inputs.ad_codes[0, 0]  # the sequence repeats the ad: one row of the table ad_id
    twice = type(inputs)(*(None if one is None else torch.cat([one, one]) for one in inputs))
    rows = 6  # user_id, taste, ad_id, style, price, hour
    assert LENGTH > 1 and embedding.penalty(inputs).item() == embedding.penalty(twice).item() == 0.5 * rows * 4
    embedding.penalty(inputs).backward()
    assert int((embedding.weight.grad.abs().sum(dim=1) > 0).sum()) == rows  # type: ignore[union-attr]


def test_tables_of_its_own_for_each_domain() -> None:
    embedding = FieldEmbedding(schema(3), 4, per_domain=True)
    inputs = batch(1).inputs
    (first, other) = (embedding(inputs._replace(domain=torch.tensor([one]))) for one in (0, 2))
    age = embedding.names.index("age")
    filled = [index for index, name in enumerate(embedding.names) if name != "seen"]
    assert ((first - other)[0, filled].abs().sum(dim=1) > 0).all() or inputs.user_dense[0, 0] == 0, age
    first.sum().backward()
    slices = embedding.weight.grad.reshape(3, -1).abs().sum(dim=1)  # type: ignore[union-attr]
    assert slices[0] > 0 and slices[1:].sum() == 0


def test_towers_send_each_row_to_its_domain() -> None:
    torch.manual_seed(0)
    towers = DomainTowers(4, lambda: MLP(5, (6, 3), output=2))
    x, domain = torch.randn(20, 5), torch.tensor([3, 1, 1, 0] * 5)
    expected = torch.stack([towers.towers[int(d)](row) for row, d in zip(x, domain, strict=True)])
    torch.testing.assert_close(towers(x, domain), expected)
    for one in range(4):  # domain-pure, and one domain for all rows as in the exported graph
        torch.testing.assert_close(towers(x, torch.full((20,), one)), towers.towers[one](x))
        torch.testing.assert_close(towers(x, torch.tensor([one])), towers.towers[one](x))


def test_an_absent_domain_has_no_gradient_at_all() -> None:
    towers = DomainTowers(3, lambda: MLP(5, (4,)))
    towers(torch.randn(6, 5), torch.tensor([0, 2, 0, 2, 0, 2])).sum().backward()
    assert [all(one.grad is None for one in tower.parameters()) for tower in towers.towers] == [False, True, False]


def test_rows_by_domain() -> None:
    order, sizes = rows_by_domain(torch.tensor([2, 0, 2, 0]), 4)
    assert order.tolist() == [1, 3, 0, 2] and sizes == [2, 0, 2, 0]


def test_mlp_shape_and_dropout() -> None:
    network = MLP(3, (5, 4), dropout=(0.0, 0.5))
    x = torch.randn(2, 3)
    assert network.width == 4 and network.hidden(0, x).shape == (2, 5)
    assert MLP(3, (5,), output=1)(x).shape == (2, 1)
    network.eval()
    torch.testing.assert_close(network(x), network.hidden(1, network.hidden(0, x)))
    with pytest.raises(ValueError, match="2 dropout rates for 1 layers"):
        MLP(3, (5,), dropout=(0.1, 0.2))
