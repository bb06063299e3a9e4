"""The compared rankers of the expert family, each against its paper's equations, written out one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from ranker_world import Batch, batch, schema
from torch import Tensor

from trainer.baselines import aitm, hinet, hmoe, mmoe, ple, shared_bottom
from trainer.baselines.experts import ExpertsConfig, mixed, of_own_domain, side_by_side
from trainer.layers import MLP, Ranker

DOMAINS = 3
_SIZES: dict[str, Any] = {"dim": 4, "bottom": (9,), "expert": (7, 6), "tower": (5,), "experts": 2}
CONFIG = ExpertsConfig(**_SIZES)
HINET = hinet.HiNetConfig(**_SIZES, own_expert=(5, 3), own_experts=2)
MODELS: dict[str, tuple[Any, Any]] = {
    "shared_bottom": (shared_bottom.SharedBottom, CONFIG),
    "mmoe": (mmoe.MMoE, CONFIG),
    "ple": (ple.PLE, CONFIG),
    "hinet": (hinet.HiNet, HINET),
    "aitm": (aitm.AITM, CONFIG),
    "hmoe": (hmoe.HMoE, CONFIG),
}


def build(name: str, domains: int = DOMAINS) -> Any:
    """In eval mode, with weights far from their quiet start: gates that choose."""
    cls, config = MODELS[name]
    torch.manual_seed(0)
    model: Ranker = cls(schema(domains), config)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.5 * torch.randn(one.shape))
    return model.eval()


def rows(model: Any, data: Batch) -> list[tuple[int, Tensor]]:
    """Each row's domain and its x_1N, which experts and gates read."""
    with torch.no_grad():
        x_BN = model.bottom(model.embedding(data.inputs).flatten(1))
    return [(int(domain), x_BN[row : row + 1]) for row, domain in enumerate(data.inputs.domain)]


def mixture(gate_1X: Tensor, experts: Sequence[Tensor]) -> Tensor:
    return sum((weight * one for weight, one in zip(torch.softmax(gate_1X, dim=1)[0], experts, strict=True)), torch.zeros(()))


def gated(gate: Any, x: Tensor, experts: Sequence[Tensor]) -> Tensor:
    return mixture(gate(x), experts)


def check(model: Any, expected: list[Tensor], data: Batch) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(data.inputs), torch.cat(expected).flatten(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("own_inputs", [False, True])
def test_side_by_side_is_each_network_on_its_own(own_inputs: bool) -> None:
    torch.manual_seed(0)
    networks = [MLP(4, (6, 5), output=3) for _ in range(7)]
    x_BXN = torch.randn(11, 7, 4) if own_inputs else torch.randn(11, 1, 4).expand(-1, 7, -1)
    expected = torch.stack([one(x_BXN[:, place]) for place, one in enumerate(networks)], dim=1)
    torch.testing.assert_close(side_by_side(networks, x_BXN if own_inputs else x_BXN[:, 0]), expected)


def test_a_mixture_weighs_by_softmax_and_a_row_takes_what_its_domain_has() -> None:
    every_BXW = torch.arange(12.0).view(2, 3, 2)
    gate_BX = torch.tensor([[0.0, 0.0, -50.0], [-50.0, -50.0, 0.0]])
    torch.testing.assert_close(mixed(every_BXW, gate_BX), torch.tensor([[1.0, 2.0], [10.0, 11.0]]))
    assert of_own_domain(every_BXW, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert of_own_domain(every_BXW, torch.tensor([1])).tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_shared_bottom_has_a_tower_a_domain_on_one_network() -> None:
    model, data = build("shared_bottom"), batch(12, DOMAINS)
    check(model, [model.tower.towers[domain](model.only_expert(x)) for domain, x in rows(model, data)], data)


def test_mmoe_mixes_the_same_experts_by_the_gate_of_the_rows_domain() -> None:
    """f_d(x) = sum_i softmax(W_d x)_i expert_i(x); logit = tower_d(f_d(x))."""
    model, data = build("mmoe"), batch(12, DOMAINS)
    expected = []
    for domain, x in rows(model, data):
        f_1W = gated(model.gate.towers[domain], x, [one(x) for one in model.shared_experts])
        expected.append(model.tower.towers[domain](f_1W))
    check(model, expected, data)


def test_ples_own_gate_sees_own_and_shared_experts_and_its_shared_gate_sees_all() -> None:
    """Two levels; the second reads what the first has mixed, its own part the own mixture, its shared part the shared one."""
    model, data = build("ple"), batch(12, DOMAINS)
    expected = []
    for domain, x in rows(model, data):
        own, shared = [one(x) for one in model.own_experts], [one(x) for one in model.shared_experts]
        mine = gated(model.own_gate.towers[domain], x, [own[domain], *shared])
        common = gated(model.shared_gate, x, [*own, *shared])
        last = [model.last_own_expert.towers[domain](mine), *(one(common) for one in model.last_shared_experts)]
        expected.append(model.tower.towers[domain](gated(model.last_gate.towers[domain], mine, last)))
    check(model, expected, data)


def test_hinet_joins_what_is_shared_its_own_and_what_others_know() -> None:
    """The tower reads [shared; own_d; sum over the others j of a_dj own_j], a_d a softmax over the others alone."""
    model, data = build("hinet"), batch(12, DOMAINS)
    expected = []
    for domain, x in rows(model, data):
        shared = gated(model.shared_gate, x, [one(x) for one in model.shared_experts])
        sub = [one(x) for one in model.own_experts]
        sub_gates = model.own_gates(x).view(DOMAINS, 1, 2)
        own = [mixture(sub_gates[j], sub[2 * j : 2 * j + 2]) for j in range(DOMAINS)]
        others = [j for j in range(DOMAINS) if j != domain]
        relation = torch.softmax(model.relation(model.embedding.domain_weight[domain])[others], dim=0)
        known = sum((weight * own[j] for weight, j in zip(relation, others, strict=True)), torch.zeros(()))
        expected.append(model.tower.towers[domain](torch.cat([shared, own[domain], known], dim=1)))
    check(model, expected, data)


def test_hinets_attention_leaves_out_the_own_domain() -> None:
    attention_DD = build("hinet")._attention()
    assert attention_DD.diagonal().tolist() == [0.0] * DOMAINS
    torch.testing.assert_close(attention_DD.sum(dim=1), torch.ones(DOMAINS))
    assert (attention_DD + torch.eye(DOMAINS) > 0).all()
    alone = build("hinet", domains=1)
    assert torch.isfinite(alone(batch(5, 1).inputs)).all()


def test_aitm_attends_over_what_is_handed_on_and_what_the_own_tower_finds() -> None:
    """z = sum over u of softmax(<h2(u), h3(u)> / sqrt(W)) h1(u), u the step before's or the own tower's."""
    model, data = build("aitm"), batch(12, DOMAINS)
    width = CONFIG.expert[-1]
    expected = []
    for domain, x in rows(model, data):
        transfer = model.transfer.towers[domain].linears[0]
        h1, h2, h3 = transfer.weight.split(width)
        b1, b2, b3 = transfer.bias.split(width)
        parts = [torch.relu(model.hand_on(model.anywhere(x))), model.here.towers[domain](x)]
        weight = torch.stack([((u @ h2.T + b2) * (u @ h3.T + b3)).sum() / width**0.5 for u in parts]).softmax(dim=0)
        z = sum((one * (u @ h1.T + b1) for one, u in zip(weight, parts, strict=True)), torch.zeros(()))
        expected.append(model.tower.towers[domain](z))
    check(model, expected, data)


def test_aitms_loss_is_that_of_both_steps() -> None:
    cls, config = MODELS["aitm"]
    torch.manual_seed(0)
    model, data = cls(schema(DOMAINS), replace(config, embedding_l2=0.0, dropout=0.0)), batch(60, DOMAINS)
    x_BN = model.bottom_of(data.inputs)
    steps = [model.anywhere_head(model.anywhere(x_BN)).squeeze(1), model(data.inputs)]
    expected = sum((torch.nn.functional.softplus(one) - data.label * one).mean() for one in steps)
    torch.testing.assert_close(model.training_loss(data), expected)


def test_hmoe_mixes_the_probabilities_that_every_domain_would_give() -> None:
    """p = sum_j softmax(V_d x)_j sigmoid(tower_j(f_j(x)))."""
    model, data = build("hmoe"), batch(12, DOMAINS)
    expected = []
    for domain, x in rows(model, data):
        experts = [one(x) for one in model.shared_experts]
        scores = [model.tower.towers[j](gated(model.gate.towers[j], x, experts)) for j in range(DOMAINS)]
        expected.append(gated(model.trust.towers[domain], x, [torch.sigmoid(one) for one in scores]).logit())
    check(model, expected, data)


def test_hmoe_teaches_no_other_domains_gate_or_tower_and_asks_them_all_the_same() -> None:
    model, data = build("hmoe"), batch(20, DOMAINS, domain=1)
    before = model(data.inputs)
    before.sum().backward()
    for j in range(DOMAINS):
        learns = [
            one.grad is not None and bool(one.grad.abs().sum() > 0)
            for part in (model.gate, model.tower, model.trust)
            for one in part.towers[j].parameters()
        ]
        assert learns == [j == 1] * len(learns)
    with torch.no_grad():
        model.tower.towers[2].linears[-1].bias.add_(1.0)
        assert (model(data.inputs) - before).min() > 1e-4


def test_hmoe_loses_no_digits_where_it_is_sure() -> None:
    model = build("hmoe")
    with torch.no_grad():
        for one in model.tower.towers:
            one.linears[-1].weight.zero_()
            one.linears[-1].bias.fill_(-40.0)  # float32's 1 - sigmoid(-40) is 1
        torch.testing.assert_close(model(batch(5, DOMAINS).inputs), torch.full((5,), -40.0))
        for one in model.tower.towers:
            one.linears[-1].bias.fill_(40.0)
        torch.testing.assert_close(model(batch(5, DOMAINS).inputs), torch.full((5,), 40.0))


@pytest.mark.parametrize("name", MODELS)
def test_a_domain_without_rows_has_no_gradient(name: str) -> None:
    """In what is its own (of PLE and HiNet every row reads all experts): none, not zero, so that Adam leaves it alone."""
    model, data = build(name).train(), batch(30, DOMAINS, domain=1)
    model.training_loss(data).backward()
    own = {key: one.grad for key, one in model.named_parameters() if ".towers." in key}
    assert [key for key, grad in own.items() if grad is not None] == [key for key in own if ".towers.1." in key]
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)
