"""DFE, the users' memory and DFI against numbers worked out by hand and against the formulas as printed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ranker_world import batch, schema

from contracts.user_row import UserRow, blend
from trainer.dfei import DFEI, VARIANTS, DFEIConfig, DomainFeatures
from trainer.user_memory import DomainAverage, UserMemory

ONES = torch.ones


def test_moving_average_worked_out() -> None:
    """alpha .9. First batch of domain 0: mean of (1, 2) and (3, 4) = (2, 3), taken as it is. Second: .9 (2, 3) + .1 (12, 13)."""
    average = DomainAverage(2, 2, alpha=0.9)
    first = average.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 0]), ONES(2))
    assert first.tolist() == [[2.0, 3.0], [0.0, 0.0]]
    second = average.update(torch.tensor([[12.0, 13.0], [5.0, 6.0]]), torch.tensor([0, 1]), ONES(2))
    torch.testing.assert_close(second, torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    torch.testing.assert_close(average.vectors_DK, second)


def test_average_by_rows_worked_out() -> None:
    """Horizon 3. Rows 1, 3: mean 2. Row 8: (2 * 2 + 8) / 3 = 4; three rows are remembered. Row 8: (3 * 4 + 8) / 4 = 5."""
    average = DomainAverage(2, 1, alpha=0.9, horizon=3.0)
    for rows, expected in (([1.0, 3.0], 2.0), ([8.0], 4.0), ([8.0], 5.0)):
        moved = average.update(torch.tensor(rows)[:, None], torch.zeros(len(rows), dtype=torch.int64), ONES(len(rows)))
        assert moved.tolist() == [[expected], [0.0]]


def test_average_by_rows_does_not_depend_on_the_batches() -> None:
    u = torch.randn(60, 4)
    whole, parts = DomainAverage(1, 4, 0.9, horizon=100.0), DomainAverage(1, 4, 0.9, horizon=100.0)
    whole.update(u, torch.zeros(60, dtype=torch.int64), ONES(60))
    for part in u.split((1, 9, 50)):
        parts.update(part, torch.zeros(len(part), dtype=torch.int64), ONES(len(part)))
    torch.testing.assert_close(whole.vectors_DK, parts.vectors_DK)


def test_gradient_passes_through_the_batch_mean_alone() -> None:
    average = DomainAverage(1, 1, alpha=0.9)
    old = torch.tensor([[4.0]], requires_grad=True)
    average.update(old, torch.tensor([0]), ONES(1))
    new = torch.tensor([[1.0], [2.0]], requires_grad=True)
    average.update(new, torch.tensor([0, 0]), ONES(2)).sum().backward()
    assert old.grad is None
    torch.testing.assert_close(new.grad, torch.tensor([[0.05], [0.05]]))  # (1 - alpha) / 2 rows


def test_a_mixed_batch_moves_each_domain_as_its_own_batch_would() -> None:
    u, domain = torch.randn(30, 4), torch.arange(30) % 3
    mixed, pure = DomainAverage(3, 4, 0.9), DomainAverage(3, 4, 0.9)
    for shift in (0.0, 1.0):
        mixed.update(u + shift, domain, ONES(30))
        for one in range(3):
            pure.update((u + shift)[domain == one], domain[domain == one], ONES(10))
    torch.testing.assert_close(mixed.vectors_DK, pure.vectors_DK)


@pytest.mark.parametrize("source", ["random", "learned"])
def test_other_sources_do_not_average(source: str) -> None:
    average = DomainAverage(2, 3, 0.9, source)  # type: ignore[arg-type]
    before = average.vectors_DK.detach().clone()
    average.update(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), ONES(5))
    assert torch.equal(average.vectors_DK, before)
    assert (len(list(average.parameters())) == 1) == (source == "learned")


def test_memory_worked_out() -> None:
    """User 7 in domain 1 has seen (1, 0) and (3, 0): m = (2, 0), n = 2. Blend with v = (10, 10), kappa 6: (2 m + 6 v) / 8."""
    memory = UserMemory(2, 2)
    memory.allocate(torch.tensor([7, 9]), torch.tensor([1, 0]))
    memory.fold(torch.tensor([7, 7]), torch.tensor([1, 1]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]), ONES(2))
    prior = torch.tensor([[5.0, 5.0], [10.0, 10.0]])
    found = memory.blended(torch.tensor([7, 9, 1]), prior, kappa=6.0)
    torch.testing.assert_close(found[0], torch.tensor([[5.0, 5.0], [8.0, 7.5]]))
    assert torch.equal(found[1], prior) and torch.equal(found[2], prior)


def test_memory_is_what_the_server_folds_and_blends() -> None:
    rng = np.random.default_rng(0)
    user, domain = rng.integers(3, size=40), rng.integers(2, size=40)
    u = rng.standard_normal((40, 4)).astype(np.float32)
    prior = rng.standard_normal((2, 4)).astype(np.float32)
    memory = UserMemory(2, 4)
    memory.allocate(torch.tensor(user), torch.tensor(domain))
    for part in (slice(0, 15), slice(15, 40)):
        memory.fold(torch.tensor(user[part]), torch.tensor(domain[part]), torch.tensor(u[part]), ONES(len(u[part])))
    empty = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
    sides = np.zeros((2, 0), dtype=np.int32), np.zeros((2, 0), dtype=np.float32)
    blended = memory.blended(torch.arange(3), torch.tensor(prior), 5.0).numpy()
    for one in range(3):
        row = UserRow(0, np.zeros(2, np.float32), np.zeros((2, 4), np.float32), *empty, *sides)
        for at in np.flatnonzero(user == one):
            row = row.folded(int(domain[at]), u[at], day=1)
        np.testing.assert_allclose(blended[one], blend(row.vectors, row.counts, prior, 5.0), atol=1e-5)


def test_everyone_is_a_stranger_after_forgetting() -> None:
    memory = UserMemory(2, 1)
    memory.allocate(torch.tensor([5]), torch.tensor([0]))
    memory.fold(torch.tensor([5]), torch.tensor([0]), torch.tensor([[2.0]]), ONES(1))
    assert memory.blended(torch.tensor([5]), torch.zeros(2, 1), 1.0).squeeze(2).tolist() == [[1.0, 0.0]]
    memory.forget()
    assert memory.blended(torch.tensor([5]), torch.zeros(2, 1), 1.0).abs().sum() == 0


def _model(**changes: object) -> DFEI:
    torch.manual_seed(0)
    config = DFEIConfig(dim=4, hidden=(6, 5), dropout=(0.0, 0.0), **changes)  # type: ignore[arg-type]
    return DFEI(schema(3), config)


def test_a_row_never_sees_its_own_encoding() -> None:
    model, data = _model(), batch(50, seed=1)
    features = model.features
    assert features.memory is not None
    features.memory.allocate(data.user_row, data.inputs.domain)
    u = 100 * model.encode(data.inputs)
    first = features.training_vectors(data, u)
    torch.testing.assert_close(first, features.average.vectors_DK.expand(50, -1, -1))  # everyone was a stranger
    second = features.training_vectors(data, u)
    assert (second - features.average.vectors_DK).abs().max() > 1e-3  # now they have a history


def test_no_gradient_passes_through_a_users_history() -> None:
    model, data = _model(), batch(50, seed=1)
    assert model.features.memory is not None
    model.features.memory.allocate(data.user_row, data.inputs.domain)
    u = model.encode(data.inputs).detach().requires_grad_()
    model.features.training_vectors(data, u)
    v = model.features.training_vectors(data, u.detach() * 2)
    assert not (v - v.detach()).requires_grad and u.grad is None


def test_clicked_only_averages_clicks() -> None:
    model, data = _model(clicked_only=True), batch(60, seed=2)
    u = model.encode(data.inputs)
    model.features.training_vectors(data, u)
    clicked = (data.inputs.domain == 1) & (data.label > 0)
    torch.testing.assert_close(model.domain_vectors[1], u[clicked].mean(dim=0))


def test_serving_changes_nothing_and_strangers_get_the_domains_vectors() -> None:
    model, data = _model(), batch(30, seed=3)
    model.features.training_vectors(data, model.encode(data.inputs))
    model.eval()
    state = {key: one.clone() for key, one in model.state_dict().items()}
    stranger = model.domain_vectors[None].expand(30, -1, -1)
    torch.testing.assert_close(model(data.inputs), model(data.inputs._replace(user_vectors=stranger)))
    assert all(torch.equal(one, state[key]) for key, one in model.state_dict().items())


def test_integration_is_the_printed_formula() -> None:
    """w_j = softmax_j(<h2(e), h3(v_j)> / sqrt(k)), z = sum_j w_j h1(v_j), for a shared and for a per-user set of vectors."""
    torch.manual_seed(1)
    features = DomainFeatures(7, 4, DFEIConfig(hidden=(6, 5), dropout=(0.0, 0.0)))
    e, v = torch.randn(3, 7), torch.randn(3, 4, 5)
    bias_of_h3 = torch.randn(5)  # whatever it is, it cancels
    for vectors in (v, v[:1]):
        for row in range(3):
            own = vectors[row % len(vectors)]
            logits = torch.stack([features.query(e[row]) @ (features.key(one) + bias_of_h3) / 5**0.5 for one in own])
            z = sum(w * features.value(one) for w, one in zip(torch.softmax(logits, 0), own, strict=True))
            torch.testing.assert_close(features.integrate(e, vectors)[row], z, atol=1e-5, rtol=1e-5)


def test_in_turns_the_shared_learn_at_a_share_of_the_rate() -> None:
    model = _model(turns=True)
    shared, own = model.parameter_groups(0.03)
    assert model.domain_pure and shared["lr"] == pytest.approx(0.01) and own["lr"] == 0.03
    towers = {id(one) for part in (model.features.towers, model.heads) for one in part.parameters()}
    assert {id(one) for one in own["params"]} == towers
    assert len(shared["params"]) + len(own["params"]) == len(list(model.parameters()))
    mixed = _model(shared_rate_over_domains=True)
    assert not mixed.domain_pure and [one["lr"] for one in mixed.parameter_groups(0.03)] == pytest.approx([0.01, 0.03])


def test_ablated_parts_are_not_read() -> None:
    """Without DFE the vectors of a row's own domain, without DFI those of the others, change no answer."""
    data = batch(20, seed=4).inputs._replace(domain=torch.zeros(20, dtype=torch.int64))
    for changes, unread, expected in (({"reads_mixture": False}, 1, True), ({"reads_own": False}, 1, False), ({}, 1, False)):
        model = _model(per_user=False, **changes).eval()
        for vector in (0, unread):
            model.features.average.vectors_DK[vector] = 1.0
        before = model(data)
        model.features.average.vectors_DK[unread] = -3.0
        assert torch.equal(model(data), before) == expected
    width = {name: _model(**one).heads.towers[0].linears[0].in_features for name, one in VARIANTS.items()}
    assert (width["no_dfi"], width["no_dfe"], width["alpha_0_5"]) == (15, 15, 20)
