"""Off-policy estimates: small cases by hand, identities that hold for any log, refusals, intervals against a known truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.direct import FOLDS, corrections, folds, rates
from abtest.estimate import Estimate, interval
from abtest.offpolicy import Decisions, evaluate, weigh
from abtest.simulate_slates import SlateWorld, law
from abtest.skewed import skewed_interval
from abtest.stats import NotComputable, Ratio


def decisions(reward, weight, unit=None, before=None, predicted=None, expected=None) -> Decisions:
    n = len(reward)
    unit = np.arange(n) if unit is None else np.asarray(unit)
    floats = [None if x is None else np.asarray(x, dtype=np.float64) for x in (reward, weight, before, predicted, expected)]
    return Decisions(unit, floats[0], floats[1], np.ones(n) if before is None else floats[2], floats[3], floats[4])


def value(result) -> float:
    assert isinstance(result, Estimate), result
    return result.value


def reason(result) -> str:
    assert isinstance(result, NotComputable)
    return result.reason


def repeated(case: Decisions, times: int = 400) -> Decisions:
    """The same decisions of other users: sums per decision stay, and there are enough of them."""
    unit = np.concatenate([case.unit + copy * (case.unit.max() + 1) for copy in range(times)])
    rest = {name: None if x is None else np.tile(x, times) for name, x in vars(case).items() if name != "unit"}
    return Decisions(unit, **rest)


def test_two_decisions_by_hand() -> None:
    """Logged: a with .8 (clicked), b with .2 (not). Evaluated: .4 and .6. Model: .5 of a, .1 of b, so .26 is expected."""
    before, weight = weigh([[0.8], [0.8], [0.8], [0.8], [0.2]], [[0.4], [0.4], [0.4], [0.4], [0.6]])
    assert weight.ravel() == pytest.approx([0.5] * 4 + [3.0]) and before.ravel() == pytest.approx(np.ones(5))
    case = decisions([1, 1, 0, 0, 0], weight.ravel(), predicted=[0.5] * 4 + [0.1], expected=[0.26] * 5)
    found = evaluate(repeated(case))
    assert value(found.logged) == pytest.approx(2 / 5)
    assert value(found.ips) == pytest.approx(2 * 0.5 / 5)
    assert value(found.snips) == pytest.approx(2 * 0.5 / 5.0)
    assert value(found.doubly_robust) == pytest.approx(0.26 + (2 * 0.5 * 0.5 - 2 * 0.5 * 0.5 - 3 * 0.1) / 5)
    assert found.direct == pytest.approx(0.26)
    assert value(found.mean_weight) == pytest.approx(1.0)
    assert found.effective_users == pytest.approx(400 * 5**2 / (4 * 0.25 + 9))


def test_a_place_is_weighted_by_itself_and_those_above() -> None:
    found = weigh([[0.5, 0.5, 1.0], [0.5, 0.25, 0.5]], [[0.25, 1.0, 1.0], [1.0, 0.5, 0.0]])
    assert not isinstance(found, NotComputable)
    before, weight = found
    assert weight == pytest.approx(np.array([[0.5, 1.0, 1.0], [2.0, 4.0, 0.0]]))
    assert before == pytest.approx(np.array([[1.0, 0.5, 1.0], [1.0, 2.0, 4.0]]))


@given(st.integers(0, 2**32 - 1), st.integers(200, 400))
def test_of_equal_policies_ips_and_snips_are_the_plain_mean(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.uniform(0.05, 1, (n, 2))
    weighed = weigh(chances, chances)
    assert not isinstance(weighed, NotComputable)
    reward = (rng.random(2 * n) < 0.5).astype(float)
    found = evaluate(decisions(reward, weighed[1].ravel(), unit=np.repeat(np.arange(n), 2), before=weighed[0].ravel()))
    assert found.ips == found.snips == found.logged
    assert value(found.ips) == pytest.approx(reward.mean())


@given(st.integers(0, 2**32 - 1))
def test_without_residuals_doubly_robust_is_direct_and_with_a_model_of_nothing_it_is_ips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 500
    reward, weight, expected = rng.random(n), rng.uniform(0.5, 1.5, n), rng.random(n)
    weight *= n / weight.sum()
    perfect = evaluate(decisions(reward, weight, predicted=reward, expected=expected))
    assert value(perfect.doubly_robust) == pytest.approx(perfect.direct) == pytest.approx(expected.mean())
    nothing = evaluate(decisions(reward, weight, predicted=np.zeros(n), expected=np.zeros(n)))
    assert nothing.doubly_robust == nothing.ips


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1e3))
def test_estimates_scale_with_rewards_and_snips_ignores_the_scale_of_weights(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    case = decisions(rng.random(400), rng.uniform(0.9, 1.1, 400))
    one, more = evaluate(case), evaluate(replace(case, reward=case.reward * scale))
    assert value(more.ips) == pytest.approx(scale * value(one.ips))
    assert value(more.snips) == pytest.approx(scale * value(one.snips))
    assert value(evaluate(replace(case, weight=case.weight * 1.01)).snips) == pytest.approx(value(one.snips))


def test_what_cannot_be_computed_says_why() -> None:
    rng = np.random.default_rng(0)
    clicks = (rng.random(1000) < 0.3).astype(float)
    even = np.ones(1000)
    assert "no decisions" in reason(evaluate(decisions([], [])).ips)
    assert "nothing that was shown" in reason(evaluate(decisions(clicks, 0 * even)).snips)
    few = evaluate(decisions(clicks[:100], even[:100]))
    assert "100.0 effective users; it takes 150" in reason(few.ips) and isinstance(few.logged, Estimate)
    uneven = np.where(np.arange(1000) % 6 == 0, 6.0, 0.0)
    assert "16.7% of the users' evidence" in reason(evaluate(decisions(clicks, uneven)).doubly_robust)
    assert "does not contain all" in reason(evaluate(decisions(clicks, 0.8 * even + 0.01 * clicks)).ips)
    assert "propensities are wrong" in reason(evaluate(decisions(clicks, 1.2 * even + 0.01 * clicks)).ips)
    rare = np.zeros(1000)
    rare[:9] = 1
    assert "9.0 effective users with a reward; it takes 15" in reason(evaluate(decisions(rare, even)).ips)
    assert "no model" in reason(evaluate(decisions(clicks, even)).doubly_robust)
    for wrong in (0.0, -0.1, 1.1, math.nan):
        assert "1 of 2 logged propensities" in reason(weigh([[0.5], [wrong]], [[0.5], [0.5]]))


def test_many_decisions_of_few_users_are_few_users() -> None:
    rng = np.random.default_rng(1)
    found = evaluate(decisions((rng.random(5000) < 0.3).astype(float), np.ones(5000), unit=np.arange(5000) % 20))
    assert (found.decisions, found.users) == (5000, 20)
    assert "20.0 effective users" in reason(found.ips)


def test_without_skewness_the_interval_is_students_and_with_it_the_long_side_is_longer() -> None:
    rng = np.random.default_rng(2)
    half = rng.normal(size=200)
    even = np.concatenate([half, -half]) + 5
    student, ours = interval(Ratio.of(even, np.ones(400))), skewed_interval(even, np.ones(400))
    assert isinstance(student, Estimate) and isinstance(ours, Estimate)
    assert (ours.low, ours.high) == pytest.approx((student.low, student.high), rel=1e-9)
    skewed = skewed_interval(rng.lognormal(0, 1.5, 400), np.ones(400))
    assert isinstance(skewed, Estimate)
    assert skewed.high - skewed.value > 1.2 * (skewed.value - skewed.low)
    assert "two units" in reason(skewed_interval([1.0], [1.0]))


def test_halls_transformation_is_undone() -> None:
    """g(t) = t + s (2 t^2 + 1) / (6 sqrt n) + s^2 t^3 / (27 n) at the returned limits gives Student's quantiles."""
    x = np.random.default_rng(3).exponential(size=60)
    found = skewed_interval(x, np.ones(60))
    assert isinstance(found, Estimate) and found.variance is not None
    skewness = float(((x - x.mean()) ** 3).mean() / x.std() ** 3)
    for limit, score in ((found.low, 2.0009954), (found.high, -2.0009954)):
        t = (found.value - limit) / math.sqrt(found.variance)
        g = t + skewness * (2 * t**2 + 1) / (6 * math.sqrt(60)) + skewness**2 * t**3 / (27 * 60)
        assert g == pytest.approx(score, abs=1e-6)


def test_fitted_predictions_come_from_other_users() -> None:
    unit = np.repeat(np.arange(50), 4)
    fold = folds(unit)
    assert set(fold) == set(range(FOLDS)) and all(len(set(fold[unit == one])) == 1 for one in range(50))
    cell, reward = np.arange(200) % 2, np.random.default_rng(4).random(200)
    found = rates(cell, 2, reward, fold, prior=10.0)
    others = reward[(fold != 3) & (cell == 1)]
    overall = reward[fold != 3].mean()
    assert found[3, 1] == pytest.approx((others.sum() + 10 * overall) / (len(others) + 10))
    by = corrections(cell, 2, 3.0 * reward, reward, fold)
    assert by == pytest.approx(np.full((FOLDS, 2), 3.0))


def test_intervals_cover_the_simulated_truth() -> None:
    """Of 200 logs 95% +- 1.5% do; the tables over thousands are made by `python -m loadtests.offpolicy`."""
    world = law(SlateWorld(users=600, evaluated=0.5), seed=3)
    covered = {"ips": 0, "snips": 0, "doubly_robust": 0, "logged": 0}
    for number in range(200):
        found = evaluate(world.draw(np.random.default_rng([7, number])))
        for name in covered:
            one = getattr(found, name)
            assert isinstance(one, Estimate)
            covered[name] += one.low <= world.truth <= one.high
    assert min(covered[name] for name in ("ips", "snips", "doubly_robust")) >= 180
    assert covered["logged"] < 100  # the truth is another policy's
