"""The rankers that ours are compared with, each against its paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ranker_world import batch, schema
from torch import nn

from trainer.baselines import adasparse, apg, dcnv2, pepnet, star

DOMAINS = 3


def test_star_normalises_each_domain_by_its_own_rows_and_by_the_prior() -> None:
    torch.manual_seed(0)
    norm, rows = star.PartitionedNorm(DOMAINS, 4), {0: 3_000, 1: 5}  # the third domain has none
    parts = {domain: 2.0 * domain + (1.0 + domain) * torch.randn(size, 4) for domain, size in rows.items()}
    z = torch.cat(list(parts.values()))
    where = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([3_000, 5]))
    norm.train()
    norm(z, where)
    norm.eval()
    prior = star._PRIOR_ROWS
    for domain in range(DOMAINS):
        own = parts.get(domain, z[:0])
        weight = len(own) + prior
        mean = (own.sum(0) + prior * z.mean(0)) / weight
        square = (own.square().sum(0) + prior * z.square().mean(0)) / weight
        expected = (z[:7] - mean) / (square - mean.square() + star._EPSILON).sqrt()
        torch.testing.assert_close(norm(z[:7], torch.full((7,), domain)), expected, atol=1e-3, rtol=1e-3)


def test_star_forgets_old_rows_and_nothing_else_moves_at_inference() -> None:
    norm, old, new = star.PartitionedNorm(2, 1), torch.full((1_000, 1), 5.0), torch.full((1_000, 1), 1.0)
    where = torch.zeros(1_000, dtype=torch.int64)
    norm.train()
    norm(old, where)
    for _ in range(60):
        norm(new, where)
    mean = norm._statistics()[0][0, 0].item()
    assert 1.0 < mean < 1.05  # 60,000 rows later exp(-6) of the old ones are left
    norm.eval()
    norm(old, where)
    assert norm._statistics()[0][0, 0].item() == mean


def test_star_starts_as_its_shared_network_and_multiplies_weights() -> None:
    torch.manual_seed(0)
    towers = star.StarTowers(DOMAINS, 6, (5, 4), 0.0)
    x, domain = torch.randn(8, 6), torch.randint(0, DOMAINS, (8,))
    torch.testing.assert_close(towers(x, domain), towers.shared(x))
    own = towers.towers[1].linears[0]  # type: ignore[index,union-attr]
    nn.init.constant_(own.weight, 2.0)  # type: ignore[arg-type]
    nn.init.constant_(own.bias, 3.0)  # type: ignore[arg-type]
    weight, bias = towers.weights(1)[0]
    first = towers.shared.linears[0]
    torch.testing.assert_close((weight, bias), (2.0 * first.weight, first.bias + 3.0))


def test_pepnets_gates_are_neutral_at_zero_and_do_not_teach_what_they_scale() -> None:
    torch.manual_seed(0)
    model = pepnet.PEPNet(schema(DOMAINS), pepnet.PEPNetConfig(dim=4, hidden=(8, 6), gate=5)).eval()
    gates = [model.embedding_gate, *model.hidden_gates]
    for gate in gates:
        nn.init.zeros_(gate.linears[-1].weight)  # type: ignore[index,union-attr,arg-type]
        nn.init.zeros_(gate.linears[-1].bias)  # type: ignore[index,union-attr,arg-type]
    inputs = batch(30, DOMAINS).inputs
    plain = model.network(model.embedding(inputs)[:, :-1].flatten(1)).squeeze(1)
    torch.testing.assert_close(model(inputs), plain)
    gate = pepnet.MLP(7, (5,), output=3)
    prior, stopped = torch.randn(4, 2, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    scale = pepnet._scale(gate, prior, stopped)
    scale.sum().backward()
    assert ((scale > 0) & (scale < 2)).all() and stopped.grad is None and prior.grad is not None and prior.grad.abs().sum() > 0


def test_adasparse_prunes_neurons_and_pays_for_shares_out_of_range() -> None:
    torch.manual_seed(0)
    model = adasparse.AdaSparse(schema(DOMAINS), adasparse.AdaSparseConfig(dim=4, hidden=(8, 6), pruned=(0.2, 0.4), sparsity=2.0))
    share = torch.tensor([0.0, 0.2, 0.3, 0.4, 0.9])
    off = (share - 0.3).abs() * torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(model._sparsity(share), (2.0 * off * off.square()).mean())
    data = batch(200, DOMAINS)
    model.eval()
    with torch.no_grad():
        for pruner in model.pruners:
            nn.init.constant_(pruner.bias, -20.0)  # type: ignore[arg-type]
        logit, shares = model._pruned(data.inputs)
        assert [one.item() for one in shares] == [1.0, 1.0]
        torch.testing.assert_close(logit, model.network.linears[-1].bias.expand(200))  # type: ignore[union-attr,operator]


def test_adasparse_reaches_its_range_and_its_factors_sharpen() -> None:
    torch.manual_seed(0)
    config = adasparse.AdaSparseConfig(dim=4, hidden=(32,), dropout=0.0, pruned=(0.4, 0.5), sparsity=300.0)
    model, data = adasparse.AdaSparse(schema(DOMAINS), config), batch(300, DOMAINS)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before = model._pruned(data.inputs)[1][0].item()
    for _ in range(150):
        optimizer.zero_grad()
        model.training_loss(data).backward()
        optimizer.step()
    after = model._pruned(data.inputs)[1][0].item()
    assert before < 0.1 and 0.35 < after < 0.55
    assert model.state_dict()["alpha"].item() == pytest.approx(2.5)


def test_apg_is_a_linear_layer_whose_weights_follow_the_condition() -> None:
    torch.manual_seed(0)
    layer = apg.GeneratedLinear(condition=3, inputs=7, outputs=5, rank=2)
    x, z = torch.randn(6, 7), torch.randn(6, 3)
    for row in range(6):
        own = layer.generate(z[row]).reshape(2, 2)
        weight = layer.up.weight @ own @ layer.down.weight
        torch.testing.assert_close(layer(x, z)[row], weight @ x[row] + layer.up.bias)
    neutral = torch.zeros(6, 3)
    torch.testing.assert_close(layer(x, neutral), layer.up(layer.down(x)))


def test_dcnv2_multiplies_with_the_first_layer_and_adds_the_last() -> None:
    torch.manual_seed(0)
    cross = dcnv2.CrossLayer(width=4, rank=2)
    x0, x = torch.randn(3, 4), torch.randn(3, 4)
    weight = (cross.up.weight @ cross.down.weight).detach().numpy()
    expected = x0.numpy() * (x.numpy() @ weight.T + cross.up.bias.detach().numpy()) + x.numpy()
    np.testing.assert_allclose(cross(x0, x).detach().numpy(), expected, atol=1e-6)
