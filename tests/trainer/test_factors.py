"""Factors solve the equations that define them, and a sum over a history stands for the user who has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from trainer.factors import ALSConfig, factored_rows, factorise

CONFIG = ALSConfig(factors=5, alpha=10.0, regularisation=2.0, iterations=30)


def taken(users: int = 60, ads: int = 40) -> sparse.csr_array:
    """Two groups with ads of their own; an ad that nobody took."""
    rng = np.random.default_rng(3)
    likes = (np.arange(users)[:, None] + np.arange(ads)) % 2 == 0
    took = rng.random((users, ads)) < np.where(likes, 0.3, 0.02)
    took[:, 5] = False
    return sparse.csr_array(took.astype(np.float32))


def test_ads_solve_the_weighted_least_squares_given_the_users() -> None:
    graph = taken()
    user_UK, ad_AK = factorise(graph, CONFIG, seed=0)
    weight_UA = 1.0 + (CONFIG.alpha - 1.0) * graph.toarray()
    for ad in range(graph.shape[1]):
        gram = (user_UK * weight_UA[:, ad, None]).T @ user_UK + CONFIG.regularisation * np.eye(5)
        want = np.linalg.solve(gram, user_UK.T @ (weight_UA[:, ad] * graph.toarray()[:, ad]))
        np.testing.assert_allclose(ad_AK[ad], want, atol=2e-3)


def test_rows_are_seeded_scaled_and_zero_for_what_nobody_took() -> None:
    past_AK, row_AK = factored_rows(taken(), 6)
    for rows, again in zip((past_AK, row_AK), factored_rows(taken(), 6), strict=True):
        np.testing.assert_array_equal(rows, again)
        assert not rows[5].any()
        np.testing.assert_allclose(np.square(np.delete(rows, 5, axis=0)).sum(axis=1).mean(), 1.0, rtol=1e-5)


def test_a_history_stands_where_the_equations_have_the_user_whose_ads_weigh_little() -> None:
    """The past of an ad is (Y'Y + l)^-1 y d^-.3; ads are Y, both up to a factor."""
    graph = taken()
    past_AK, row_AK = (one.astype(np.float64) for one in factored_rows(graph, 6))
    found = factorise(graph[:, np.flatnonzero(graph.sum(axis=0))], replace(ALSConfig(), factors=6), 20_080_815)[1]
    kept = np.delete(np.arange(graph.shape[1]), 5)
    scale = np.linalg.norm(found) / np.linalg.norm(row_AK[kept])
    np.testing.assert_allclose(row_AK[kept] * scale, found, atol=1e-5)
    gram = found.T @ found + ALSConfig().regularisation * np.eye(6)
    degree = np.asarray(graph.sum(axis=0))[kept]
    back = past_AK[kept] @ gram * degree[:, None] ** 0.3
    np.testing.assert_allclose(back / np.linalg.norm(back), found / np.linalg.norm(found), atol=1e-5)


def test_more_columns_than_ads_stay_zero_and_an_empty_graph_says_nothing() -> None:
    past_AK, row_AK = factored_rows(sparse.csr_array(np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32)), 4)
    assert past_AK.shape == (3, 4) and not past_AK[:, 2:].any() and not row_AK[:, 2:].any() and np.isfinite(past_AK).all()
    assert not any(one.any() for one in factored_rows(sparse.csr_array((3, 5), dtype=np.float32), 4))
