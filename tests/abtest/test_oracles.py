"""Our numbers beside those of gbstats and spotify-confidence (tests/abtest/oracles/make.py), to 1e-6 of each number."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abtest.cuped import Paired, adjust
from abtest.estimate import Estimate, Result, difference, lift, quantile, tail
from abtest.multiplicity import holm
from abtest.power import Baseline, units_needed
from abtest.sequential import sequential
from abtest.srm import SrmCheck, srm
from abtest.stats import Mean, NotComputable, Proportion, Ratio, Statistic

ORACLES = json.loads((Path(__file__).parent / "oracles" / "cases.json").read_text())
CASES = ORACLES["cases"]
PLANNED = 60  # users; what the script asked gbstats with
CLOSE = 1e-6


def statistics(kind: str, case: dict[str, Any]) -> tuple[Statistic, Statistic] | NotComputable:
    """(treated, control)"""
    arms = [list(zip(*case[name], strict=True)) for name in ("treated", "control")]
    if kind == "mean":
        return Mean.of(arms[0][0]), Mean.of(arms[1][0])
    if kind == "ratio":
        return Ratio.of(*arms[0][:2]), Ratio.of(*arms[1][:2])
    if kind == "share":
        return Proportion(len(arms[0][0]), sum(arms[0][0])), Proportion(len(arms[1][0]), sum(arms[1][0]))
    treated, control = (Paired.of(arm[0], arm[2]) for arm in arms)
    found = adjust(treated, control)
    return found if isinstance(found, NotComputable) else (found.treated, found.control)


def numbers(one: Result) -> list[float] | None:
    return [one.value, one.low, one.high, one.p_value or 0.0] if isinstance(one, Estimate) else None


def asked(case: dict[str, Any], question: str) -> Result:
    kind, scale, *looks = question.split()
    pair = statistics(kind, case)
    if isinstance(pair, NotComputable):
        return pair
    found = (difference if scale == "absolute" else lift)(*pair)
    if scale == "relative" and not looks:
        found = with_degrees_of_the_difference(found, difference(*pair))
    return sequential(found, len(case["treated"]) + len(case["control"]), PLANNED) if looks else found


def agree(ours: list[float] | None, theirs: list[float] | None) -> bool:
    """Interval ends relative to the largest of the numbers beside them; p-values to 1e-6 of themselves or, where the oracle
    took 1 - cdf, to what is left of its digits."""
    if ours is None or theirs is None:
        return ours is theirs
    size = max(map(abs, theirs[:3]))
    return ours[:3] == pytest.approx(theirs[:3], rel=CLOSE, abs=CLOSE * size) and ours[3] == pytest.approx(
        theirs[3], rel=CLOSE, abs=1e-14
    )


def with_degrees_of_the_difference(relative: Result, absolute: Result) -> Result:
    """gbstats takes the degrees of freedom of a lift's interval from the absolute difference, ours are of the lift's own two
    parts; value and variance are the same."""
    if isinstance(relative, NotComputable) or isinstance(absolute, NotComputable):
        return relative
    assert relative.variance is not None
    error = math.sqrt(relative.variance)
    half = quantile(absolute.degrees, 0.95) * error
    p_value = 2 * tail(abs(relative.value) / error, absolute.degrees)
    return replace(relative, low=relative.value - half, high=relative.value + half, p_value=p_value)


def disagreements(oracle: str, question: str, kinds: tuple[str, ...] = ("value", "binary")) -> tuple[int, set[str]]:
    """How many answers agree on numbers, and the names of the cases that do not agree."""
    agreed, wrong = 0, set()
    for case in CASES:
        if question in case[oracle] and case["kind"] in kinds:
            theirs, ours = case[oracle][question], numbers(asked(case, OURS.get(question, question)))
            if not agree(ours, theirs):
                wrong.add(case["name"])
            agreed += ours is not None and theirs is not None
    return agreed, wrong


OURS = {"welch absolute": "mean absolute", "wald absolute": "share absolute"}
STEADY_ARM = "zero-variance-treated"
"""gbstats answers "effect 0" when one arm's users are all alike; the other arm's error is enough for an interval."""
EMPTY_ARM = {"no-conversions-control", "no-conversions-treated"}
"""gbstats divides by an arm of 0 first, also where a difference is asked for. Where the treated are 0 it answers with 0, too."""


@pytest.mark.parametrize("looks", ["", " sequential"])
@pytest.mark.parametrize(
    ("question", "apart"),
    [
        ("mean absolute", {STEADY_ARM, *EMPTY_ARM}),
        ("mean relative", {STEADY_ARM, "negative-control"}),
        ("ratio absolute", {STEADY_ARM, *EMPTY_ARM}),
        ("ratio relative", {STEADY_ARM, "negative-control"}),
        ("cuped absolute", {STEADY_ARM, "past-constant"}),
    ],
)
def test_means_ratios_and_cuped_are_those_of_gbstats(question: str, apart: set[str], looks: str) -> None:
    """apart: where one of the two says that there is no number, and the other has one: a lift over a negative control, which
    would turn its sign; CUPED with a past that never varies, where gbstats falls back to no CUPED."""
    agreed, wrong = disagreements("gbstats", question + looks)
    assert wrong <= apart
    assert agreed >= 200


def test_a_share_at_every_look_is_that_of_gbstats() -> None:
    agreed, wrong = disagreements("gbstats", "share relative sequential")
    assert (agreed, wrong) == (50, set())


def test_means_and_shares_are_those_of_spotify_confidence() -> None:
    """Its t-test of binary values takes the variance over n, ours over n - 1, so shares are asked of its z-test."""
    means, wrong_means = disagreements("spotify", "welch absolute", ("value",))
    shares, wrong_shares = disagreements("spotify", "wald absolute")
    assert (wrong_means, wrong_shares) == (set(), set())
    assert means + shares >= 200


def test_the_numbers_of_cases_that_cannot_be_computed_are_none_on_both_sides() -> None:
    named = {case["name"]: case for case in CASES}
    for name in ("zero-variance", "one-unit-each", "one-unit-treated", "no-conversions", "no-denominator"):
        for question in ("mean relative", "ratio relative", "cuped absolute"):
            if (name, question) in {("no-denominator", "mean relative"), ("no-denominator", "cuped absolute")}:
                continue
            assert named[name]["gbstats"][question] is None
            assert isinstance(asked(named[name], question), NotComputable), (name, question)


def test_non_inferiority_is_that_of_spotify_confidence() -> None:
    """Its margin is a tenth of the control's mean, taken as known, so the comparison is of the absolute difference."""
    agreed = 0
    for case in CASES:
        theirs = case["spotify"].get("welch non-inferior")
        found = asked(case, "mean absolute")
        if theirs is None or isinstance(found, NotComputable):
            continue
        assert found.variance is not None
        margin = 0.1 * sum(row[0] for row in case["control"]) / len(case["control"])
        assert tail((found.value + margin) / math.sqrt(found.variance), found.degrees) == pytest.approx(
            theirs, rel=CLOSE, abs=1e-9
        )
        agreed += 1
    assert agreed >= 140


def test_sample_ratios_holm_and_sample_sizes_are_the_oracles() -> None:
    for one in ORACLES["srm"]:
        arms = "abcdef"[: len(one["units"])]
        check = srm(dict(zip(arms, one["units"], strict=True)), dict(zip(arms, one["weights"], strict=True)))
        assert isinstance(check, SrmCheck)
        assert [check.p_value] * 2 == pytest.approx([one["gbstats"], one["spotify"]], rel=CLOSE)
    for one in ORACLES["holm"]:
        assert list(holm(dict(enumerate(one["p_values"]))).values()) == pytest.approx(one["adjusted"], rel=CLOSE)
    for one in ORACLES["sizes"]:
        ours = units_needed(Baseline(one["mean"], one["variance"]), one["lift"], power=one["power"])
        alike = (1 + one["lift"]) ** 2  # ours is of the lift, whose error grows with it; theirs of a difference of equal spreads
        assert ours / alike == pytest.approx(one["units"], abs=2)  # each rounds up its own way
