"""The bootstrap against brute force, and its intervals against worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.metrics import auc
from trainer.paired import Rows, by_domain, differences, draw_users, weighted_auc, weighted_mean

TIMES = draw_users(7, 150, seed=3)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(-2, 2), st.integers(0, 6)), min_size=1, max_size=40))
def test_weighted_auc_is_the_auc_of_the_rows_written_out(rows: list[tuple[bool, int, int]]) -> None:
    """Every row repeated as often as its user was drawn; few distinct scores, so ties abound; NaN where a class is lost."""
    label, score, user = (np.array(one, dtype=float) for one in zip(*rows, strict=True))
    found = weighted_auc(label, score, user.astype(int), TIMES)
    for at in range(TIMES.shape[1]):
        written = np.repeat(np.arange(len(rows)), TIMES[user.astype(int), at])
        positives = label[written].sum()
        if 0 < positives < len(written):
            assert found[at] == pytest.approx(auc(label[written], score[written]), abs=1e-6)
        else:
            assert np.isnan(found[at])


def test_everybody_once_is_the_plain_auc() -> None:
    rng = np.random.default_rng(0)
    label, score, user = rng.integers(2, size=500), rng.normal(size=500).astype(np.float32), rng.integers(9, size=500)
    assert weighted_auc(label, score, user, np.ones((9, 1), dtype=np.uint16))[0] == pytest.approx(auc(label, score), abs=1e-7)


def test_weighted_mean_is_the_mean_of_the_rows_written_out() -> None:
    rng = np.random.default_rng(1)
    value, user = rng.random(30), rng.integers(5, size=30)
    found = weighted_mean(value, user, TIMES)
    for at in range(TIMES.shape[1]):
        written = np.repeat(value, TIMES[user, at])
        assert np.isnan(found[at]) if len(written) == 0 else found[at] == pytest.approx(written.mean())


def test_as_many_users_are_drawn_as_there_are() -> None:
    times = draw_users(200, 50)
    assert (times.sum(axis=0) == 200).all() and abs((times == 0).mean() - np.exp(-1)) < 0.02
    assert (times == draw_users(200, 50)).all(), "every recipe meets the same resamples"


def rows_of(rng: np.random.Generator, users: int = 60, each: int = 8) -> Rows:
    user = np.repeat(np.arange(users), each) * 3  # row numbers of the tables have gaps
    return Rows(user, rng.integers(2, size=len(user)), (rng.random(len(user)) < 0.4).astype(np.float32))


def test_a_domain_that_loses_a_class_is_skipped_in_that_resample_alone() -> None:
    rows = Rows(np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 0, 1, 1]), np.array([1.0, 0, 1, 0, 1, 0]))
    score = np.array([2.0, 1, 0, 1, 3, 4])
    times = np.array([[1, 1, 1], [1, 0, 2], [1, 3, 1]], dtype=np.uint16)
    found = by_domain(rows, score, 3, times)
    assert np.isnan(found[1]).tolist() == [False, True, False] and not np.isnan(found[0]).any()
    assert np.isnan(found[2]).all(), "nobody was there"
    better = {"a": {0: score}, "b": {0: -score}}
    one = next(one for one in differences("auc", rows, better, {"mean": [0, 1]}, "b") if one.recipe == "a")
    assert np.isfinite([one.low, one.high]).all()


def test_differences_average_over_seeds_and_tell_the_spread() -> None:
    rng = np.random.default_rng(2)
    rows = rows_of(rng)
    assert rows.label is not None
    scores = {
        name: {seed: rng.normal(size=len(rows.user)) + gain * rows.label for seed in (0, 1)}
        for name, gain in (("weak", 0.0), ("strong", 2.0), ("same", 2.0))
    }
    scores["same"] = scores["strong"]
    found = differences("auc", rows, scores, {"mean": [0, 1], "first": [0]}, against="weak", resamples=200)

    def means(name: str, seed: int) -> float:
        assert rows.label is not None
        return float(np.mean([auc(rows.label[rows.domain == d], scores[name][seed][rows.domain == d]) for d in (0, 1)]))

    one = next(one for one in found if (one.recipe, one.against, one.scope) == ("strong", "weak", "mean"))
    each = [means("strong", seed) - means("weak", seed) for seed in (0, 1)]
    assert one.difference == pytest.approx(np.mean(each), abs=1e-6) and one.spread == pytest.approx(np.std(each, ddof=1))
    assert 0 < one.low < one.difference < one.high
    pairs = {(one.recipe, one.against) for one in found}
    assert pairs == {("strong", "weak"), ("same", "weak"), ("strong", "same")}, "to the one asked for, and of the best to each"
    equal = next(one for one in found if (one.recipe, one.against) == ("strong", "same"))
    assert equal.difference == equal.low == equal.high == 0.0
    assert {one.scope for one in found} == {"mean", "first"}


def test_an_unmeasurable_scope_is_left_out_and_one_recipe_has_no_difference() -> None:
    rng = np.random.default_rng(4)
    rows = rows_of(rng)
    score = {name: {0: rng.normal(size=len(rows.user))} for name in ("a", "b")}
    assert {one.scope for one in differences("auc", rows, score, {"mean": [0, 1], "empty": [5]}, "a")} == {"mean"}
    assert differences("auc", rows, {"a": score["a"]}, {"mean": [0]}, "a") == []


def test_the_interval_covers_the_truth_and_is_wider_than_one_over_rows() -> None:
    """60 worlds of 80 users whose rows all carry their user's own luck: two models are equally good in truth (0)."""
    covered, widths, naive = 0, [], []
    for world in range(60):
        rng = np.random.default_rng(world)
        user = np.repeat(np.arange(80), 20)
        luck = rng.normal(size=(2, 80))[:, user]
        label = (rng.random(len(user)) < 0.5).astype(np.float32)
        score = {name: {0: (label - 0.5) * luck[at] + rng.normal(size=len(user))} for at, name in enumerate("ab")}
        domain = np.zeros(len(user), dtype=int)
        one = next(
            d
            for d in differences("auc", Rows(user, domain, label), score, {"mean": [0]}, "a", 300)
            if d.recipe == "b" and d.against == "a"
        )
        covered += one.low <= 0.0 <= one.high
        widths.append(one.high - one.low)
        alone = next(
            d
            for d in differences("auc", Rows(np.arange(len(user)), domain, label), score, {"mean": [0]}, "a", 300)
            if d.recipe == "b" and d.against == "a"
        )
        naive.append(alone.high - alone.low)
    assert covered >= 51, f"a 95% interval covered the truth in {covered} of 60 worlds"
    assert np.mean(widths) > 1.5 * np.mean(naive)
