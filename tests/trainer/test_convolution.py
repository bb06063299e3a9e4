"""Rows learned by graph convolution: two groups are told apart, strangers stand where their histories put them, seeds hold."""

from __future__ import annotations

import numpy as np
import torch
from retrieval_world import ADS, USERS, World
from scipy import sparse

from contracts.schema import FIRST
from trainer.convolution import _TwoHops, convolved_rows
from trainer.graph import interactions

WIDTH = 8


def two_groups() -> World:
    """Users of even and odd number take ads of their own parity, whatever the domain; the last ad is nobody's."""
    world = World(history=True, withheld=0.2)
    kept = (world.columns["user_row"] + world.columns["ad_row"]) % 2 == 0
    kept &= world.columns["ad_row"] != ADS - 1
    world.columns = {name: column[kept] for name, column in world.columns.items()}
    past = world.user_codes[:, world.history_columns()]
    past[((past - FIRST + np.arange(USERS)[:, None]) % 2 == 1) | (past == ADS - 1 + FIRST)] = 0
    return world


def test_users_summed_from_their_ads_are_near_what_their_group_takes() -> None:
    world = two_groups()
    past_AW, ad_AW = convolved_rows(world, world.history_columns(), WIDTH)
    user_UW = past_AW[world.user_codes[:, world.history_columns()]].sum(axis=1)
    score_UA = user_UW @ (ad_AW[FIRST : FIRST + ADS - 1] / np.linalg.norm(ad_AW[FIRST : FIRST + ADS - 1], axis=1)[:, None]).T
    own = (np.arange(USERS)[:, None] + np.arange(ADS - 1)) % 2 == 0
    assert score_UA[own].min() > score_UA[~own].max()


def test_rows_of_histories_are_those_of_ads_over_the_root_of_their_degree() -> None:
    world = two_groups()
    past_AW, ad_AW = convolved_rows(world, world.history_columns(), WIDTH)
    degree_A = interactions(world).sum(axis=0)
    np.testing.assert_allclose(past_AW, ad_AW * np.maximum(degree_A, 1.0)[:, None] ** -0.5, rtol=1e-5)
    assert not ad_AW[:FIRST].any() and not ad_AW[degree_A == 0].any() and ad_AW[degree_A > 0].any(axis=1).all()


def test_the_same_data_give_the_same_rows_and_an_empty_log_gives_zeros() -> None:
    world = two_groups()
    torch.manual_seed(1)
    first = convolved_rows(world, world.history_columns(), WIDTH)
    torch.manual_seed(2)
    second = convolved_rows(world, world.history_columns(), WIDTH)
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    world.columns = {name: column[:0] for name, column in world.columns.items()}
    assert not any(one.any() for one in convolved_rows(world, world.history_columns(), WIDTH))


def test_gradients_of_two_hops() -> None:
    taken = sparse.csr_array(np.random.default_rng(0).random((5, 4)).astype(np.float64))
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_TwoHops.apply(rows, taken), torch.from_numpy((taken.T @ taken).toarray()) @ rows)
    assert torch.autograd.gradcheck(lambda one: _TwoHops.apply(one, taken), rows)
