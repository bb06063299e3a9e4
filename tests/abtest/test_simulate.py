"""The simulation in small: rates where they should be, a planted lift covered, a silent arm found."""

from __future__ import annotations

import numpy as np
import pytest

from abtest.compare import compare
from abtest.estimate import Estimate, difference
from abtest.metrics import METRICS
from abtest.plan import Plan
from abtest.simulate import FIRST_DAY_OF_CRASH, World, draw, true_lifts
from abtest.validate import ALL_DOMAINS, METHODS, predicted_power, validate
from abtest.validation_table import tables

SMALL = World(users=1_200, days=5)
CRASH = World(users=1_200, days=5, crash=True)


def test_rates_of_small_runs_are_near_what_is_promised_and_add_up() -> None:
    nothing = validate(SMALL, range(20), seed=1) + validate(SMALL, range(20, 40), seed=1)
    keys = [(ALL_DOMAINS, metric, method) for metric in METRICS for method in METHODS[:2]]
    assert nothing.experiments == 40
    found = sum(nothing.found[key] for key in keys) / sum(nothing.asked[key] for key in keys)
    assert 0.01 < found < 0.10
    assert sum(nothing.covered[key] for key in keys) == sum(nothing.asked[key] - nothing.found[key] for key in keys)
    always = sum(nothing.ever_found[metric, "always valid"] for metric in METRICS)
    fixed = sum(nothing.ever_found[metric, "fixed"] for metric in METRICS)
    assert always < fixed / 2  # the rates themselves want thousands of experiments: `mdrec ab simulate`
    planted = World(users=1_200, days=5, lift=0.5)
    lifted, crashed = validate(planted, range(10), seed=2), validate(CRASH, range(10), seed=3)
    assert lifted.found[ALL_DOMAINS, "ctr", "fixed"] == 10
    assert lifted.covered[ALL_DOMAINS, "ctr", "fixed"] >= 8
    assert lifted.known[ALL_DOMAINS, "converted", "fixed"] == 0  # the law has no closed form for it
    assert crashed.first_days[FIRST_DAY_OF_CRASH] == 10
    text = tables(nothing, lifted, crashed, predicted_power(planted, 0), SMALL)
    assert "names that day first in 100.0%" in text and text.count("| ctr |") == 2


def test_the_planted_lifts_are_the_laws() -> None:
    uneven = World(lift=(0.1, 0.0, 0.0, 0.0))
    assert true_lifts(uneven, ["ctr"], 0) == {"ctr": pytest.approx(0.1)}
    assert true_lifts(uneven, ["ctr"], 1) == {"ctr": 0.0}
    clicks = [visits * rate for visits, rate in zip(uneven.visits, uneven.click_rate, strict=True)]
    assert true_lifts(uneven, ["ctr"]) == {"ctr": pytest.approx(0.1 * clicks[0] / sum(clicks))}
    assert true_lifts(World(lift=0.2), ["ppc", "ctr", "converted"]) == {"ctr": pytest.approx(0.2), "ppc": 0.0}


def test_what_is_corrected_is_the_p_value_of_the_difference_at_one_look_and_the_always_valid_one_at_every_look() -> None:
    (last,) = draw(World(users=600, days=2, lift=0.5), np.random.default_rng(0)).tallies(days=[1])
    treated, control = last["treated"], last["control"]
    once = compare(treated, control, "ppc", Plan(sequential=False, guardrails={}))  # which the past does not help
    apart = difference(treated.statistic("ppc"), control.statistic("ppc"))
    assert isinstance(apart, Estimate) and isinstance(once.plain, Estimate) and not once.adjusted_helps
    assert once.p_value == apart.p_value != once.plain.p_value
    always = compare(treated, control, "ppc", Plan(guardrails={}))
    assert isinstance(always.always_valid, Estimate) and always.p_value == always.always_valid.p_value
