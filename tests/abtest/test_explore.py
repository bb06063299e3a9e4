"""Drawn slates: the chances on record are those that they were drawn with, against every order written out."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.check import check
from abtest.definitions import parse_object
from abtest.explore import Explore
from contracts.errors import BadInput

SCORES = st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=12)
EXPLORE = st.builds(Explore, st.floats(0.05, 20), st.integers(2, 8))


def by_hand(scores: list[float], temperature: float, slate: tuple[int, ...]) -> list[float]:
    weights = [score ** (1 / temperature) for score in scores]
    found = []
    for one in slate:
        found.append(weights[one] / sum(weights))
        weights[one] = 0.0
    return found


def test_chances_are_plackett_and_luces() -> None:
    scores = [3.0, 1.0, 2.0]
    for slate in permutations(range(3)):
        chances = Explore(0.5, 3).chances(scores, slate)
        assert chances[range(3), slate] == pytest.approx(by_hand(scores, 0.5, slate))
        assert chances.sum(axis=1) == pytest.approx(1.0)
    assert Explore(1.0, 3).chances(scores, [0, 2])[0] == pytest.approx([3 / 6, 1 / 6, 2 / 6])
    assert Explore(1.0, 3).chances(scores, [0, 2])[1] == pytest.approx([0, 1 / 3, 2 / 3])


def test_slates_come_as_often_as_their_chances_say() -> None:
    """Chi-square over the six slates of two places, 20 of 5 degrees of freedom: p .001."""
    scores, explore, draws = [3.0, 1.0, 2.0], Explore(0.7, 3), 4_000
    seen = Counter(tuple(explore.draw(scores, 2, f"r{n}").chosen) for n in range(draws))
    expected = {slate: draws * np.prod(by_hand(scores, 0.7, slate)) for slate in permutations(range(3), 2)}
    assert sum((seen[slate] - one) ** 2 / one for slate, one in expected.items()) < 20.5


@given(SCORES, EXPLORE, st.integers(1, 12), st.text(max_size=5))
def test_a_drawn_slate_has_the_propensities_that_its_chances_say(
    scores: list[float], explore: Explore, k: int, seed: str
) -> None:
    drawn = explore.draw(scores, k, seed)
    places = np.arange(len(drawn.chosen))
    assert len(set(drawn.chosen)) == len(drawn.chosen) == min(k, len(scores))
    assert explore.chances(scores, drawn.chosen)[places, drawn.chosen] == pytest.approx(drawn.propensities, rel=1e-9)
    assert (drawn.propensities > 0).all() and (drawn.propensities <= 1).all()
    again = explore.draw(scores, k, seed)
    assert (again.chosen == drawn.chosen).all() and (again.propensities == drawn.propensities).all()


@given(SCORES, EXPLORE)
def test_only_the_best_are_drawn_among_and_the_rest_follow_in_rank_order(scores: list[float], explore: Explore) -> None:
    chosen = explore.draw(scores, len(scores), "r").chosen
    order = np.argsort(-np.array(scores), kind="stable")
    pool = min(explore.among, sum(score > 0 for score in scores))
    assert set(chosen[:pool]) == set(order[:pool])
    assert chosen[pool:].tolist() == order[pool:].tolist()


def test_near_zero_the_slate_is_the_ranked_one_and_a_slate_that_could_not_be_has_no_chance() -> None:
    scores = [1.0, 4.0, 2.0, 3.0]
    assert Explore(0.01, 4).draw(scores, 4, "r").chosen.tolist() == [1, 3, 2, 0]
    outside = Explore(1.0, 2).chances(scores, [1, 0, 3])  # the pool is 1 and 3
    assert outside[1, 0] == 0 and not outside[2].any()
    assert not Explore(1.0, 2).chances(scores, [-1, 1])[1].any()  # an ad that this recipe has not


@pytest.mark.parametrize(
    "explore",
    [
        {},
        {"temperature": 0},
        {"temperature": "hot"},
        {"temperature": True},
        {"temperature": float("nan")},
        {"temperature": 1, "among": 1},
        {"temperature": 1, "among": 2.5},
        {"temperature": 1, "seed": 3},
        3,
    ],
)
def test_an_arm_that_asks_for_no_exploration_is_refused_when_written(explore: object) -> None:
    arms = [{"params": {}}, {"params": {"explore": explore}}]
    with pytest.raises(BadInput, match=r"variations\.1\.params\.explore"):
        check(parse_object({"f": {"rules": [{"key": "k", "variations": arms}]}}))


def test_an_arm_without_exploration_asks_for_none() -> None:
    assert Explore.of({"retrieve_k": 3}) is None
    assert Explore.of({"explore": {"temperature": 2}}) == Explore(2.0)
