"""The canary's verdict is a pure function: sound canaries go on and propose, every planted fault is rolled back and named."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.canary import STEPS, Canary, Technical, widened
from abtest.guardrails import Guardrail
from abtest.histogram import MILLISECONDS, PROBABILITIES, above
from abtest.verdict import LEAST_ANSWERS, LEAST_FOR_TAILS, Side, Verdict, Window, stability_index, verdict

HOUR = 3600.0
PLAN = Canary(hours=24, users=500)
PASSES = Guardrail("ctr", 0.05, "passes", 0.001, "ctr is not worse by more than the margin of 5.0%")


def side(answers: int = 2_000, milliseconds: float = 5.0, score: float = 0.03, seed: int = 0, **counts: int) -> Side:
    random = np.random.default_rng(seed)
    latency = Counter(MILLISECONDS.bin(one) for one in random.lognormal(np.log(milliseconds), 0.3, answers))
    scores = Counter(PROBABILITIES.bin(one) for one in score * random.lognormal(0, 0.5, answers))
    return Side(answers, latency=latency, scores=scores, **counts)


def judged(canary: Side, stable: Side | None = None, plan: Canary = PLAN, **given: Any) -> Verdict:
    window = Window("since it began", stable or side(seed=1), canary)
    return verdict(plan, given.pop("share", 0.05), [window], given.pop("seconds", HOUR), given.pop("users", 10), **given)


def test_the_same_on_both_sides_goes_on_and_says_what_is_missing() -> None:
    found = judged(side())
    assert (found.action, found.share, found.numbers) == ("go on", None, {})
    assert found.reasons == ["1.0 of 24 hours at this share", "10 of 500 users"]


@pytest.mark.parametrize(
    ("name", "canary"),
    [
        ("failed", side(failed=100)),
        ("degraded", side(degraded=2_000)),
        ("empty", side(empty=120)),
        ("unseen", side(unseen=600)),
        ("slower", side(milliseconds=12.0)),
        ("drift", side(score=0.06)),
        ("drift", side(score=0.0001)),
    ],
)
def test_each_fault_is_rolled_back_for_its_own_reason(name: str, canary: Side) -> None:
    found = judged(canary)
    assert (found.action, list(found.numbers), len(found.reasons)) == ("roll back", [name], 1)
    assert "since it began" in found.reasons[0]
    off = PLAN.model_copy(update={"technical": Technical(**{name: None})})
    assert judged(canary, plan=off).action == "go on", "a guardrail that is switched off says nothing"


def test_what_is_as_bad_on_the_stable_side_is_not_the_canarys_fault() -> None:
    bad = {"failed": 200, "degraded": 1_500, "empty": 400, "unseen": 1_900, "milliseconds": 90.0, "score": 0.5}
    assert judged(side(**bad), side(seed=1, **bad)).action == "go on"  # type: ignore[arg-type]


def test_the_reason_has_the_numbers() -> None:
    found = judged(side(1_000, degraded=500), side(1_000, degraded=10, seed=1))
    assert found.reasons[0].startswith("answers from a lower rung since it began: 50.00% of 1,000 against 1.00% of 1,000, surely")
    numbers = found.numbers["degraded"]
    assert (numbers["canary"], numbers["stable"], numbers["margin"]) == (500, 10, 0.02)
    assert 0.3 < numbers["low"] < 0.49 < numbers["high"]


def test_a_canary_that_fails_altogether_is_found_within_its_first_answers() -> None:
    assert judged(Side(LEAST_ANSWERS, failed=LEAST_ANSWERS), Side(LEAST_ANSWERS)).action == "roll back"
    assert judged(Side(LEAST_ANSWERS - 1, failed=LEAST_ANSWERS - 1), Side(LEAST_ANSWERS)).action == "go on"


def test_any_window_is_enough() -> None:
    well, ill = (
        Window("since it began", side(50_000), side(50_000, degraded=300)),
        Window("now", side(200), side(200, degraded=150)),
    )
    assert verdict(PLAN, 0.05, [well], HOUR, 10).action == "go on", "diluted in what went well before"
    found = verdict(PLAN, 0.05, [well, ill], 30 * HOUR, 10_000)
    assert found.action == "roll back", "a breach goes before a proposal"


def test_whoever_survives_proposes_the_next_share_in_words() -> None:
    survived: dict[str, Any] = {"seconds": 24 * HOUR, "users": 500, "business": [PASSES]}
    found = judged(side(), **survived)
    assert (found.action, found.share) == ("propose", 0.1)
    assert found.reasons[1:] == [PASSES.reason, "proposes 10% of the users"]
    last = judged(side(), share=0.5, **survived)
    assert (last.action, last.share) == ("propose", None) and "whole domain" in last.reasons[-1]
    assert judged(side(), **{**survived, "seconds": 24 * HOUR - 1}).action == "go on"
    assert judged(side(), **{**survived, "users": 499}).action == "go on"
    assert "nothing is known of clicks" in judged(side(), **{**survived, "business": []}).reasons[1]


def test_the_ledger_alone_rolls_back() -> None:
    fell = Guardrail("ctr", 0.05, "breached", None, "ctr is worse by more than the margin of 5.0%: -20.00% [-30.00%, -10.00%]")
    found = judged(side(), business=[PASSES, fell])
    assert (found.action, found.reasons) == ("roll back", [fell.reason])
    doubtful = Guardrail("ctr", 0.05, "undecided", None, "may be worse")
    assert judged(side(), business=[doubtful]).action == "go on"


@given(
    st.integers(0, 3_000), st.integers(0, 3_000), st.integers(0, 3_000), st.integers(0, 3_000),
)  # fmt: skip
def test_more_failures_never_save_a_canary(answers: int, failed: int, stable: int, stable_failed: int) -> None:
    failed, stable_failed = min(failed, answers), min(stable_failed, stable)
    before = judged(Side(answers, failed=failed), Side(stable, failed=stable_failed))
    after = judged(Side(answers, failed=answers), Side(stable, failed=stable_failed))
    assert (before.action, after.action) != ("roll back", "go on")
    assert judged(Side(stable, failed=stable_failed), Side(stable, failed=stable_failed)).action == "go on"


def test_sound_canaries_are_seldom_rolled_back_however_often_they_are_looked_at() -> None:
    """A canary that is like its stable side, looked at after every 100 answers, in the last 500 and since the start, all
    guardrails at once: of 60 none may be rolled back (of 800 once measured, none was)."""
    random, rolled_back = np.random.default_rng(7), 0
    rates = {"failed": 0.01, "degraded": 0.05, "empty": 0.02, "unseen": 0.3}

    def batch() -> Side:
        latency = Counter(MILLISECONDS.bin(one) for one in random.lognormal(1.5, 0.5, 100))
        scores = Counter(PROBABILITIES.bin(one) for one in 0.03 * random.lognormal(0, 0.5, 100))
        return Side(
            100, latency=latency, scores=scores, **{name: int(random.binomial(100, rate)) for name, rate in rates.items()}
        )

    batches = [batch() for _ in range(200)]
    for _ in range(60):
        order = random.permutation(len(batches))[:40].reshape(2, 20)
        total, recent = (Side(), Side()), ([], [])
        for left, right in order.T:
            sides = batches[left], batches[right]
            total = total[0] + sides[0], total[1] + sides[1]
            for kept, one in zip(recent, sides, strict=True):
                kept[:] = [*kept[-4:], one]
            last = [sum(kept, Side()) for kept in recent]
            windows = [Window("recently", *last), Window("since it began", *total)]
            if verdict(PLAN, 0.05, windows, HOUR, 10).action == "roll back":
                rolled_back += 1
                break
    assert rolled_back == 0


def test_counts_of_workers_add_up_and_travel_as_fields() -> None:
    one, two = side(300, failed=3), side(200, seed=5, degraded=2)
    fields: Counter[str] = Counter()
    for each in (one, two):
        for name, count in each.fields("canary"):
            fields[name] += count
    fields["stable answers"] = 9
    assert Side.of(fields, "canary") == one + two
    assert Side.of(fields, "stable") == Side(9)


def test_histograms_know_quantiles_to_within_a_bin() -> None:
    values = np.random.default_rng(0).lognormal(1.5, 0.8, 20_000)
    counts = Counter(MILLISECONDS.bin(one) for one in values)
    for share in (0.01, 0.5, 0.99):
        found = MILLISECONDS.quantile(counts, share)
        assert found == pytest.approx(np.quantile(values, share), rel=0.1)
    number = MILLISECONDS.bin(10.0)
    assert above(counts, number) == np.count_nonzero(values > MILLISECONDS.bound(number))
    assert MILLISECONDS.quantile({}, 0.5) is None
    for value in (0.0, -1.0, 0.05):
        assert MILLISECONDS.bin(value) == 0
    for value in (np.nan, np.inf, 1e9):
        assert MILLISECONDS.bin(value) == MILLISECONDS.bins - 1


@given(st.floats(1e-6, 1e6))
def test_a_value_lies_within_its_bin(value: float) -> None:
    number = MILLISECONDS.bin(value)
    assert value <= MILLISECONDS.bound(number) * (1 + 1e-6) or number == MILLISECONDS.bins - 1
    assert number == 0 or value > MILLISECONDS.bound(number - 1) * (1 - 1e-6)


def test_drift_is_seen_below_and_above_all_that_was_known() -> None:
    known = {20: 1_000}
    assert stability_index(known, {20: 1_000})[0] == pytest.approx(0, abs=1e-9)
    for elsewhere in (19, 21):
        assert stability_index(known, {elsewhere: 1_000})[0] > 5
    assert stability_index({20: 500, 25: 500}, {20: 900, 25: 100})[0] == pytest.approx(0.8789, abs=0.01)  # .4 log 1.8 - .4 log .2


def test_proposals_climb_the_steps() -> None:
    assert [widened(one) for one in (0.001, *STEPS)] == [*STEPS, None]
    assert LEAST_FOR_TAILS > LEAST_ANSWERS
