"""Statistics against SciPy, statsmodels and hand; and against their own promise: adding equals concatenating."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from abtest.estimate import Estimate, difference, interval, lift
from abtest.srm import SrmCheck, srm
from abtest.stats import Mean, NotComputable, Proportion, Ratio, Statistic

RNG = np.random.default_rng(7)
CONTROL, TREATED = RNG.gamma(2, 1, 400), RNG.gamma(2, 1.2, 350)


def number(result: Estimate | NotComputable) -> Estimate:
    assert isinstance(result, Estimate), result
    return result


def test_a_difference_of_means_is_welchs_test() -> None:
    ours = number(difference(Mean.of(TREATED), Mean.of(CONTROL)))
    theirs = scipy_stats.ttest_ind(TREATED, CONTROL, equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high, ours.p_value) == pytest.approx((low, high, theirs.pvalue))


def test_the_interval_of_a_mean_is_students() -> None:
    ours = number(interval(Mean.of(CONTROL), 0.9))
    expected = scipy_stats.t.interval(0.9, len(CONTROL) - 1, CONTROL.mean(), scipy_stats.sem(CONTROL))
    assert (ours.low, ours.high) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "successes"), [(10, 0), (10, 10), (200, 30), (1, 1)])
def test_the_interval_of_a_proportion_is_wilsons(n: int, successes: int) -> None:
    ours = number(interval(Proportion(n, successes)))
    assert (ours.low, ours.high) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


def test_a_difference_of_proportions_is_walds() -> None:
    ours = number(difference(Proportion(500, 80), Proportion(600, 70)))
    theirs = confint_proportions_2indep(80, 500, 70, 600, method="wald", compare="diff")
    assert (ours.low, ours.high) == pytest.approx(theirs)


def test_a_ratio_by_hand() -> None:
    """x = 1, 2, 6 and y = 2, 4, 6: R = 9/12; s_xx = 7, s_yy = 4, s_xy = 5;
    var = (7 - 2 * .75 * 5 + .5625 * 4) / (3 * 16) = 1.75 / 48."""
    moment = Ratio.of([1, 2, 6], [2, 4, 6]).moment()
    assert not isinstance(moment, NotComputable)
    assert (moment.value, moment.variance) == pytest.approx((0.75, 1.75 / 48))


def test_a_ratio_over_units_with_one_impression_each_is_a_mean() -> None:
    clicks = RNG.integers(0, 2, 300)
    ratio, mean = number(interval(Ratio.of(clicks, np.ones(300)))), number(interval(Mean.of(clicks)))
    assert (ratio.value, ratio.low) == pytest.approx((mean.value, mean.low))


def test_the_variance_of_a_ratio_is_what_resampling_users_gives() -> None:
    views = RNG.poisson(5, 2_000) + 1
    clicks = RNG.binomial(views, RNG.beta(2, 8, 2_000))
    moment = Ratio.of(clicks, views).moment()
    assert not isinstance(moment, NotComputable)
    picks = RNG.integers(0, 2_000, (1_500, 2_000))
    resampled = clicks[picks].sum(axis=1) / views[picks].sum(axis=1)
    assert math.sqrt(moment.variance) == pytest.approx(resampled.std(), rel=0.08)


def test_a_lift_by_hand() -> None:
    """c = 2 (var .04), t = 3 (var .09): lift .5, var = .09/4 + 9 * .04/16 = .045; df 40 each part equal 0.0225 -> 80."""
    control, treated = Mean(41, 2.0, 0.04 * 40 * 41), Mean(41, 3.0, 0.09 * 40 * 41)
    ours = number(lift(treated, control))
    half = scipy_stats.t.ppf(0.975, 80) * math.sqrt(0.045)
    assert (ours.value, ours.low, ours.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert ours.p_value == pytest.approx(2 * scipy_stats.t.sf(0.5 / math.sqrt(0.045), 80))


values = arrays(np.float64, st.integers(0, 20), elements=st.floats(-1e3, 1e3))
pairs = st.integers(0, 20).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(0, 1e3)), arrays(np.float64, n, elements=st.floats(0, 1e3)),
    )
)  # fmt: skip


def parts(statistic: Any) -> list[float]:
    return [float(value) for value in vars(statistic).values()]


@given(values, values)
def test_adding_means_is_the_mean_of_all(left: Any, right: Any) -> None:
    whole = Mean.of(np.concatenate([left, right]))
    assert parts(Mean.of(left) + Mean.of(right)) == pytest.approx(parts(whole), rel=1e-9, abs=1e-6)


@given(pairs, pairs)
def test_adding_ratios_is_the_ratio_of_all(left: Any, right: Any) -> None:
    whole = Ratio.of(np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]]))
    assert parts(Ratio.of(*left) + Ratio.of(*right)) == pytest.approx(parts(whole), rel=1e-9, abs=1e-6)


def test_large_means_with_small_spread_keep_their_variance() -> None:
    x = 1e9 + RNG.normal(0, 1, 10_000)
    added = sum((Mean.of(part) for part in np.array_split(x, 50)), Mean())
    assert added.m2 / (added.n - 1) == pytest.approx(x.var(ddof=1), rel=1e-4)


def test_proportions_add() -> None:
    assert Proportion(3, 1) + Proportion(5, 4) == Proportion(8, 5)


@pytest.mark.parametrize(
    ("treated", "control", "reason"),
    [
        (Mean(), Mean.of([1, 2]), "treated: a variance needs two units"),
        (Mean.of([1, 2]), Mean.of([1]), "control: a variance needs two units"),
        (Ratio.of([0, 0], [0, 0]), Ratio.of([1, 1], [2, 3]), "treated: the denominator is 0"),
        (Proportion(10, 3), Proportion(10, 0), "control's value is 0"),
        (Proportion(), Proportion(10, 1), "treated: no units"),
        (Mean.of([0.1] * 7), Mean.of([0.1] * 5), "no variation"),
        (Proportion(10, 10), Proportion(10, 10), "no variation"),
    ],
)
def test_what_cannot_be_computed_says_why_and_is_no_zero(treated: Statistic, control: Statistic, reason: str) -> None:
    result = lift(treated, control)
    assert isinstance(result, NotComputable)
    assert reason in result.reason


def test_srm_is_scipys_chi_square_and_fires_on_60_to_40() -> None:
    broken = srm({"a": 600, "b": 400}, {"a": 0.5, "b": 0.5})
    assert isinstance(broken, SrmCheck) and broken.broken
    assert broken.p_value == pytest.approx(scipy_stats.chisquare([600, 400], [500, 500]).pvalue)
    fine = srm({"a": 600, "b": 400}, {"a": 0.06, "b": 0.04})
    assert isinstance(fine, SrmCheck) and not fine.broken


def test_srm_on_cookie_cats_published_counts() -> None:
    """44,700 against 45,489 players at 50:50: chi-square 6.90, p .009; suspicious, but no alarm."""
    check = srm({"gate_30": 44_700, "gate_40": 45_489}, {"gate_30": 1, "gate_40": 1})
    assert isinstance(check, SrmCheck)
    assert (round(check.chi_square, 2), round(check.p_value, 3), check.broken) == (6.90, 0.009, False)


def test_srm_of_nothing_too_little_or_an_arm_without_weight() -> None:
    assert isinstance(srm({}, {"a": 1, "b": 1}), NotComputable)
    assert isinstance(srm({"a": 3, "b": 2}, {"a": 1, "b": 1}), NotComputable)
    stray = srm({"a": 30, "b": 1}, {"a": 1, "b": 0})
    assert isinstance(stray, SrmCheck) and stray.broken
    assert isinstance(srm({"a": 30}, {"a": 1, "b": 0}), NotComputable)


def test_an_a_a_test_is_significant_as_often_as_it_says() -> None:
    """200 experiments on users who differ in how much they see and how they click; 5% of 200 is 10, sd 3."""
    rng = np.random.default_rng(11)
    false_alarms = naive_alarms = 0
    for _ in range(200):
        views = rng.negative_binomial(1, 0.1, 2_000) + 1
        clicks = rng.binomial(views, rng.beta(1, 9, 2_000))
        arm = rng.random(2_000) < 0.5
        ours = number(lift(Ratio.of(clicks[arm], views[arm]), Ratio.of(clicks[~arm], views[~arm])))
        false_alarms += (ours.p_value or 0.0) < 0.05
        naive = number(difference(*(Proportion(int(views[side].sum()), int(clicks[side].sum())) for side in (arm, ~arm))))
        naive_alarms += (naive.p_value or 0.0) < 0.05
    assert 3 <= false_alarms <= 18
    assert naive_alarms > 40  # impressions as units: why the variance is taken over users


def test_a_real_lift_is_covered_by_its_interval() -> None:
    rng = np.random.default_rng(12)
    covered = 0
    for _ in range(200):
        views = rng.poisson(8, (2, 1_000)) + 1
        clicks = rng.binomial(views, rng.beta(2, 8, (2, 1_000)) * np.array([[0.8], [1.0]]))
        ours = number(lift(Ratio.of(clicks[1], views[1]), Ratio.of(clicks[0], views[0])))
        covered += ours.low <= 0.25 <= ours.high
    assert 181 <= covered <= 198
