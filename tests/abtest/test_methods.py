"""CUPED, always-valid intervals, power, guardrails, Holm and the diagnosis of a split, each against what it promises."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from abtest.cuped import Adjusted, Paired, adjust
from abtest.estimate import Estimate, difference, lift
from abtest.guardrails import judge
from abtest.moments import Moments
from abtest.multiplicity import holm
from abtest.power import Baseline, days_to_decision, detectable, power_of, units_needed
from abtest.sequential import half_width, sequential
from abtest.srm import diagnose
from abtest.stats import Mean, Moment, NotComputable, Ratio

RNG = np.random.default_rng(5)


def adjusted(treated: Paired, control: Paired) -> Adjusted:
    found = adjust(treated, control)
    assert isinstance(found, Adjusted), found
    return found


def correlated(n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """(value, value before), each of variance 1 and mean 5."""
    before, noise = RNG.normal(size=n), RNG.normal(size=n)
    return 5 + rho * before + math.sqrt(1 - rho**2) * noise, 5 + before


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_cuped_takes_nine_tenths_of_the_squared_correlation_off_the_variance(rho: float) -> None:
    found = adjusted(Paired.of(*correlated(4_000, rho)), Paired.of(*correlated(4_000, rho)))
    assert 0.9 * rho**2 <= found.gain <= 1.1 * rho**2


def test_cuped_of_a_ratio_gains_by_a_lasting_inclination() -> None:
    """Clicks of users whose click rates differ and last: the correlation of the linearised ratios, squared."""
    rate = RNG.beta(2, 8, 8_000)
    views, views_before = RNG.poisson(30, (2, 8_000)) + 1
    clicks, clicks_before = RNG.binomial(views, rate), RNG.binomial(views_before, rate)
    ratio, ratio_before = clicks.sum() / views.sum(), clicks_before.sum() / views_before.sum()
    rho = np.corrcoef(clicks - ratio * views, clicks_before - ratio_before * views_before)[0, 1]
    halves = [
        Paired.of(*(one[part] for one in (clicks, views, clicks_before, views_before)))
        for part in (slice(4_000), slice(4_000, None))
    ]
    found = adjusted(*halves)
    assert found.gain >= 0.9 * rho**2 > 0.3


def test_cuped_is_unbiased_and_its_interval_is_as_wide_as_its_spread() -> None:
    values = []
    for _ in range(300):
        treated, control = correlated(200, 0.8), correlated(200, 0.8)
        found = adjusted(Paired.of(treated[0] + 0.1, treated[1]), Paired.of(*control))
        values.append(difference(found.treated, found.control))
    estimates = [one.value for one in values if isinstance(one, Estimate)]
    errors = [math.sqrt(one.variance or 0) for one in values if isinstance(one, Estimate)]
    assert np.mean(estimates) == pytest.approx(0.1, abs=0.012)
    assert np.std(estimates) == pytest.approx(np.mean(errors), rel=0.12)


def test_cuped_without_a_past_says_so_and_with_an_idle_one_gains_nothing() -> None:
    values, _ = correlated(500, 0.5)
    constant = adjust(Paired.of(values, np.zeros(500)), Paired.of(values + 1, np.zeros(500)))
    assert isinstance(constant, NotComputable) and "nothing before the start varies" in constant.reason
    empty = adjust(Paired.of(values, values, values, np.zeros(500)), Paired.of(values, values, values, np.zeros(500)))
    assert isinstance(empty, NotComputable) and "denominator before the start is 0" in empty.reason
    idle = adjusted(Paired.of(values, RNG.normal(size=500)), Paired.of(values, RNG.normal(size=500)))
    assert abs(idle.gain) < 0.01


def test_moments_add_up_as_if_the_users_had_been_together() -> None:
    columns = RNG.gamma(2, 1, (4, 500))
    whole, added = Moments.of(columns), Moments.of(columns[:, :120]) + Moments.of(columns[:, 120:])
    assert added.mean == pytest.approx(whole.mean)
    assert added.cross == pytest.approx(whole.cross)
    ours, theirs = Paired(whole).plain(), Ratio.of(columns[0], columns[1])
    assert vars(ours) == pytest.approx(vars(theirs))


def test_an_always_valid_interval_is_wider_and_errs_at_most_as_often_as_it_says_over_all_looks() -> None:
    """400 A/A experiments looked at 20 times: the fixed-horizon interval errs in a fifth of them or more."""
    wrong = naive = 0
    for _ in range(400):
        arms = RNG.normal(size=(2, 1_000)) + 10
        looks = [lift(Mean.of(arms[0, :n]), Mean.of(arms[1, :n])) for n in range(50, 1_001, 50)]
        valid = [sequential(one, 100 * (at + 1), planned_units=1_000) for at, one in enumerate(looks)]
        naive += any(isinstance(one, Estimate) and not one.low <= 0 <= one.high for one in looks)
        wrong += any(isinstance(one, Estimate) and not one.low <= 0 <= one.high for one in valid)
        assert all(
            isinstance(w, Estimate) and isinstance(n, Estimate) and w.low < n.low for w, n in zip(valid, looks, strict=True)
        )
    assert wrong <= 20
    assert naive >= 80


def test_an_always_valid_p_value_and_interval_say_the_same_and_are_narrowest_where_planned() -> None:
    edge = half_width(0.04, 2_000, 2_000)
    inside, outside = (sequential(Estimate(edge * by, 0, 0, 0.1, 0.04), 2_000, 2_000) for by in (0.999, 1.001))
    assert isinstance(inside, Estimate) and isinstance(outside, Estimate)
    assert inside.low < 0 < outside.low
    assert (outside.p_value or 0) < 0.05 < (inside.p_value or 0)
    widths = {planned: half_width(0.04, 2_000, planned) for planned in (200, 2_000, 20_000)}
    assert min(widths, key=lambda one: widths[one]) == 2_000
    with pytest.raises(ValueError, match="must be positive"):
        sequential(inside, 0, 100)


def test_power_and_sizes_are_those_of_statsmodels() -> None:
    base, n = Baseline(4.0, 9.0), 1_200
    effect = 0.05 * 4.0 / 3.0
    theirs = NormalIndPower().power(effect, nobs1=n, alpha=0.05, ratio=1.5)
    assert power_of(0.05, base.error(n, 1.5 * n)) == pytest.approx(theirs, rel=1e-9)
    size = NormalIndPower().solve_power(effect, power=0.9, alpha=0.05, ratio=1.0)
    assert units_needed(base, 0.05, power=0.9) / 1.05**2 == pytest.approx(2 * size, abs=2)
    least = detectable(base.error(n, n))
    assert power_of(least, base.error(n, n, least)) == pytest.approx(0.8, abs=1e-5)
    assert math.isinf(detectable(0.5))
    assert isinstance(Baseline.of(Moment(0.0, 1.0, 5), 6), NotComputable)
    with pytest.raises(ValueError, match="lift of 0"):
        units_needed(base, 0.0)


def test_days_to_decision_fall_to_nothing_as_the_variance_does() -> None:
    now = Estimate(0.01, -0.03, 0.05, 0.6, 4e-4)

    def fixed(variance: float, _: float) -> float:
        return 1.959964 * math.sqrt(variance)

    left = days_to_decision(now, 5, 0.02, fixed)
    assert left == pytest.approx(5 * (1.959964 + 0.841621) ** 2 - 5, rel=0.03)
    assert days_to_decision(now, 5, 0.06, fixed) == 0
    for one, lift_wanted, reason in (
        (now, None, "names no least lift"),
        (now, 1e-4, "more than"),
        (NotComputable("why"), 0.1, "why"),
    ):
        found = days_to_decision(one, 5, lift_wanted, fixed)
        assert isinstance(found, NotComputable) and reason in found.reason


def test_holm_is_that_of_statsmodels_and_keeps_its_promise_on_families() -> None:
    p_values = dict(enumerate(RNG.random(25) ** 2))
    assert list(holm(p_values).values()) == pytest.approx(multipletests(list(p_values.values()), method="holm")[1])
    families = RNG.random((4_000, 30))
    wrong = sum(min(holm(dict(enumerate(family))).values()) < 0.05 for family in families)
    assert 150 <= wrong <= 250
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-0.005, 0.02, "up", "passes"),
        (-0.02, 0.02, "up", "undecided"),
        (-0.04, -0.02, "up", "breached"),
        (-0.02, 0.005, "down", "passes"),
        (0.02, 0.04, "down", "breached"),
    ],
)
def test_a_guardrail_passes_only_when_harm_beyond_the_margin_is_excluded(
    low: float, high: float, better: str, verdict: str
) -> None:
    found = judge("ctr", 0.01, Estimate((low + high) / 2, low, high, 0.5, ((high - low) / 3.92) ** 2), better)  # type: ignore[arg-type]
    assert found.verdict == verdict
    assert found.p_value is not None and (found.p_value < 0.025) == (verdict == "passes")
    assert judge("ctr", 0.01, NotComputable("no units"), "up").verdict == "not computable"


def test_a_mismatch_is_put_down_to_the_domain_and_the_day_it_comes_from() -> None:
    even = {"a": 0.5, "b": 0.5}
    days = {date(2026, 11, 1) + timedelta(days=day): {"a": 1_000, "b": 1_000 if day < 4 else 400} for day in range(6)}
    found = diagnose({"feed": {"a": 3_000, "b": 3_000}, "search": {"a": 2_000, "b": 1_200}}, days, even)
    assert (list(found.domains), list(found.days)) == (["search"], [date(2026, 11, 5), date(2026, 11, 6)])
    assert "in search: 'a' has 2,000 users where 1,600 of 3,200 are expected" in found.words[0]
    assert "on 2 of 6 days, first on 2026-11-05: 'a' has 1,000" in found.words[1]
    assert "each day since" in found.words[1]
    everywhere = diagnose({"feed": {"a": 3_000, "b": 2_000}, "search": {"a": 3_000, "b": 2_000}}, {}, even)
    assert "every domain is off" in everywhere.words[-1]
    assert diagnose({"feed": {"a": 501, "b": 499}}, {}, even).words == []
