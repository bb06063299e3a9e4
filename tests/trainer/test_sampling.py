"""The sampler draws what its log Q claims, masks accidental hits, and the folded softmax equals the one over columns."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_world import ADS, DOMAINS, USERS, World

from contracts.schema import FIRST, PAD
from trainer.history import HISTORY_SPEC, history_from_positives, leave_one_out
from trainer.sampling import Negatives, Sampler, column_probability, sampled_softmax, training_pairs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 12))
def test_column_probability_is_the_expected_share_of_columns(seed: int, in_batch: int, uniform: int) -> None:
    """Brute force: the expectation of one column over every positive and every eligible ad."""
    rng = np.random.default_rng(seed)
    positives, eligible = rng.integers(0, 6, size=17), np.unique(rng.integers(0, 8, size=6))
    expected = np.zeros(8)
    for column in range(in_batch + uniform):
        pool = positives if column < in_batch else eligible
        for ad in pool:
            expected[ad] += 1 / len(pool) / (in_batch + uniform)
    frequency = np.bincount(positives, minlength=8) / len(positives)
    probability = column_probability(frequency, eligible, in_batch, uniform)
    np.testing.assert_allclose(probability, expected, atol=1e-12)
    np.testing.assert_allclose(probability.sum(), 1.0)


def test_the_corrected_sum_over_columns_estimates_the_sum_over_all_ads() -> None:
    """Log Q, multiplicities and masks at once: E[sum_columns exp(s) / Q] / C = sum over the ads the user has not taken, of
    exp(s), for every ad that can be drawn at all."""
    world = World()
    world.eligible_ads = [np.arange(0, ADS, 2, dtype=np.int32) for _ in range(DOMAINS)]  # half: both parts of Q show
    weight_A = np.exp(np.random.default_rng(0).standard_normal(ADS))
    own = training_pairs(world).of(0)
    drawable = np.union1d(own.ad_row, world.eligible_ads[0])
    sampler = Sampler(world, batch_size=60, uniform=40, seed=1)
    estimates, truths = [], []
    for epoch in range(150):
        for positives, negatives in sampler.epoch(epoch):
            if positives.domain == 0:
                rows, offset_BU = len(positives.user_row), negatives.offset_BU.numpy().astype(np.float64)
                offset_BU[np.arange(rows), negatives.own_B.numpy()] = -np.inf
                ads = negatives.ad_codes[:, 0].numpy() - FIRST
                estimates.append((np.exp(offset_BU) @ weight_A[ads]).mean() / (rows + round(40 * rows / 60)))
                known = [own.ad_row[own.user_row == user] for user in positives.user_row.numpy()]
                truths.append(np.mean([weight_A[np.setdiff1d(drawable, one)].sum() for one in known]))
    np.testing.assert_allclose(np.mean(estimates), np.mean(truths), rtol=0.03)


def test_the_folded_softmax_is_the_softmax_over_columns() -> None:
    score_BU = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    columns, log_q_U = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([-1.0, -2.0, -0.5])
    logit_BC = (score_BU - log_q_U)[:, columns]
    logit_BC[1, 4] = -torch.inf  # row 1's own ad, drawn again
    logit_BC[0, 1] = logit_BC[0, 4] = -torch.inf  # ad 1 is a known positive of row 0
    want = torch.nn.functional.cross_entropy(logit_BC, torch.tensor([0, 1]))
    times = torch.log(torch.tensor([1.0, 2.0, 2.0]))
    offset_BU = torch.stack([times - log_q_U, times - log_q_U])
    offset_BU[0, 0], offset_BU[0, 1], offset_BU[1, 1] = -log_q_U[0], -torch.inf, -log_q_U[1]
    negatives = Negatives(torch.zeros(3, 1), torch.zeros(3, 0), torch.tensor([0, 1]), offset_BU)
    torch.testing.assert_close(sampled_softmax(score_BU, negatives), want)


def test_batches_are_domain_pure_complete_and_mask_exactly_the_users_other_positives() -> None:
    world = World()
    sampler = Sampler(world, batch_size=50, uniform=30, seed=0)
    pairs = training_pairs(world)
    taken = set(zip(*(column.tolist() for column in pairs), strict=True))
    seen = []
    for positives, negatives in sampler.epoch(0):
        ads = negatives.ad_codes[:, 0].numpy() - FIRST
        users = positives.user_codes[:, 0].numpy() - FIRST
        assert np.array_equal(users, positives.user_row.numpy())
        own = negatives.own_B.numpy()
        seen += [(int(user), int(ad), positives.domain) for user, ad in zip(users, ads[own], strict=True)]
        hidden = np.isinf(negatives.offset_BU.numpy())
        for row, user in enumerate(users):
            want = [(int(user), int(ad), positives.domain) in taken and at != own[row] for at, ad in enumerate(ads)]
            assert hidden[row].tolist() == want
    assert sorted(seen) == sorted(taken)


def test_an_epoch_follows_from_seed_and_number_alone() -> None:
    world = World()
    first, again = (next(iter(Sampler(world, 50, 30, seed=2).epoch(4))) for _ in range(2))
    later = next(iter(Sampler(world, 50, 30, seed=2).epoch(5)))
    assert torch.equal(first[1].offset_BU, again[1].offset_BU) and torch.equal(first[0].user_codes, again[0].user_codes)
    assert first[0].domain != later[0].domain or not torch.equal(first[0].user_codes, later[0].user_codes)


def test_a_row_does_not_see_its_own_ad_in_its_history() -> None:
    world = World(history=True)
    columns = world.history_columns()
    hidden = 0
    for positives, negatives in Sampler(world, 50, 30).epoch(0):
        own = negatives.ad_codes[negatives.own_B, 0]
        past = positives.user_codes[:, columns]
        assert not (past == own[:, None]).any()
        stored = torch.from_numpy(world.user_codes[positives.user_row.numpy(), columns])
        hidden += int(((stored != past).sum(1) > 0).sum())
        assert torch.equal(past[past != PAD], stored[(stored != PAD) & (stored != own[:, None])])
    assert hidden > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9)), max_size=40), st.integers(1, 4))
def test_history_keeps_each_users_latest_distinct_known_ads(events: list[tuple[int, int, int]], length: int) -> None:
    user, code, time = (np.array(column, dtype=np.int64) for column in (zip(*events, strict=True) if events else ([], [], [])))
    got = history_from_positives(user, code, 5, time, length)
    for one in range(5):
        latest: dict[int, int] = {}
        for at in np.argsort(time, kind="stable"):
            if user[at] == one and code[at] >= FIRST:
                latest.pop(int(code[at]), None)
                latest[int(code[at])] = 1
        want = list(latest)[-length:]
        assert got[one].tolist() == want + [PAD] * (length - len(want))


def test_without_a_history_nothing_is_masked() -> None:
    world = World(history=False)
    assert leave_one_out(world.schema, world.user_codes, np.full(USERS, FIRST, dtype=np.int32)) is world.user_codes
    assert HISTORY_SPEC.of == "ad_id"
