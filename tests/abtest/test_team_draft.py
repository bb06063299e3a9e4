"""The merge of two rankings: whole, of what each side argues for, replayable, and fair whatever the rankings are."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abtest.team_draft import DEEP, Rankings, coins, draft

ADS = [f"a{number}" for number in range(12)]
rankings = st.tuples(st.lists(st.sampled_from(ADS), unique=True), st.lists(st.sampled_from(ADS), unique=True))
sizes = st.integers(1, 15)
tosses = st.integers(0, 2**64 - 1)
ids = st.text("ab1é☃", max_size=20)
EVERY = settings(deadline=None, max_examples=100)


def rank(both: Rankings[str], team: int, ad: str, k: int) -> int:
    seen = list(both[team][: DEEP * k])
    return seen.index(ad) if ad in seen else DEEP * k


def lead(both: Rankings[str], ad: str, k: int) -> float:
    """By how much the second has it ahead of where the first has it."""
    return log(2 + rank(both, 0, ad, k)) - log(2 + rank(both, 1, ad, k))


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_a_slate_is_distinct_as_long_as_the_union_allows_and_of_each_teams_own_slate(
    both: Rankings[str], k: int, toss: int
) -> None:
    picks = draft(both, k, toss)
    ads = [pick.ad_id for pick in picks]
    assert len(set(ads)) == len(ads) == min(k, len({*both[0], *both[1]}))
    for pick in picks:
        assert both[pick.team][:k][pick.rank] == pick.ad_id
        assert pick.counts == (pick.weight > 0)


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_each_side_argues_for_what_it_has_furthest_ahead_and_rounds_are_as_heavy_as_they_disagree(
    both: Rankings[str], k: int, toss: int
) -> None:
    picks = [pick for pick in draft(both, k, toss) if pick.counts]
    sides = []
    for team, sign in ((0, -1), (1, 1)):
        theirs = sorted((ad for ad in both[team][:k] if sign * lead(both, ad, k) > 0), key=lambda ad: -sign * lead(both, ad, k))
        sides.append(theirs)
    pairs = list(zip(*sides, strict=False))[: (k + 1) // 2]
    spoken = {pick.ad_id: pick for pick in picks}
    for number, pair in enumerate(pairs):
        odd = 2 * number + 1 == k
        there = [(team, ad) for team, ad in enumerate(pair) if ad in spoken]
        assert len(there) == (1 if odd else 2)
        assert not odd or there[0][0] == toss >> number & 1
        for team, ad in there:
            disagreement = (lead(both, pair[1], k) - lead(both, pair[0], k)) / 2
            assert (spoken[ad].team, spoken[ad].weight) == (team, pytest.approx(disagreement))
    assert len(picks) == min(k, 2 * len(pairs))


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_swapping_the_teams_under_the_same_coins_swaps_the_credit_and_nothing_else(
    both: Rankings[str], k: int, toss: int
) -> None:
    here, there = draft(both, k, toss), draft((both[1], both[0]), k, ~toss)
    assert [(one.ad_id, one.weight) for one in here] == [(one.ad_id, one.weight) for one in there]
    assert [(one.team, one.rank) for one in here if one.counts] == [(1 - one.team, one.rank) for one in there if one.counts]


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_a_place_counts_just_where_another_ad_would_stand_had_its_coin_fallen_otherwise(
    both: Rankings[str], k: int, toss: int
) -> None:
    picks, turned = draft(both, k, toss), draft(both, k, ~toss)
    assert [one.counts for one in picks] == [one.ad_id != other.ad_id for one, other in zip(picks, turned, strict=True)]
    assert [one.weight for one in picks] == [one.weight for one in turned]


@EVERY
@given(both=rankings, k=st.integers(1, 8), places=st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_clicks_that_know_nothing_of_the_ads_favour_nobody(both: Rankings[str], k: int, places: list[int]) -> None:
    """Exactly, over all coins: whatever the rankings are and whatever a place is worth."""
    credit = Fraction(0)
    for bits in product((0, 1), repeat=4):
        picks = draft(both, k, sum(bit << number for number, bit in enumerate(bits)))
        credit += sum((1 if one.team else -1) * places[at] * Fraction(one.weight) for at, one in enumerate(picks))
    assert credit == 0


def test_equal_rankings_get_no_credit_and_what_stands_alike_none_either() -> None:
    for toss in range(64):
        assert [(one.ad_id, one.weight) for one in draft((ADS, ADS), 10, toss)] == [(ad, 0.0) for ad in ADS[:10]]
    for toss in range(16):
        picks = draft((["x", "y", "a", "b"], ["x", "y", "c", "d"]), 4, toss)
        assert {one.ad_id for one in picks} == {"a", "b", "c", "d"}  # what both would show gives way to what tells them apart
        picks = draft((["x", "y", "a"], ["x", "y", "c"]), 3, toss)
        assert [(one.ad_id, one.counts) for one in picks] == [("x", False), *((ad, True) for ad in ("ca" if toss & 1 else "ac"))]


def test_the_rounds_by_hand() -> None:
    """Balanced interleaving would favour the second of these under random clicks; here the coin is fair."""
    both = (["a", "b", "c"], ["b", "c", "a"])
    found = {toss: [(one.ad_id, one.team, one.counts) for one in draft(both, 3, toss)] for toss in range(4)}
    assert found[0b00] == [("a", 0, True), ("b", 1, True), ("c", 1, False)]
    assert found[0b01] == [("b", 1, True), ("a", 0, True), ("c", 1, False)]


def test_a_pick_is_what_the_other_side_has_far_behind_not_what_it_has_just_behind_its_slate() -> None:
    both = (["x", "near", "far", *"pqrs"], ["x", "close", "away", "near", "t", "u", "p", "far"])
    picks = {one.ad_id: one for one in draft(both, 2, 0)}
    assert set(picks) == {"near", "close"}  # the slates are x, near and x, close
    picks = {one.ad_id: one for one in draft(both, 3, 0)}
    assert set(picks) == {"far", "close", "near"}  # far before near, which takes the single place of the second round
    beyond = 3 * DEEP
    assert picks["far"].weight == pytest.approx((log((2 + 7) / (2 + 2)) + log((2 + beyond) / (2 + 1))) / 2)
    assert picks["near"].weight == pytest.approx((log((2 + 3) / (2 + 1)) + log((2 + beyond) / (2 + 2))) / 2)


def test_a_ranking_is_looked_at_three_slates_deep() -> None:
    both = (["a", "b"], ["c", "d", *"efgh", "a"])
    assert [one.weight for one in draft(both, 2, 0)] == [pytest.approx(log((2 + 6) / 2))] * 2
    assert draft(both, 2, 0) == draft((both[0], both[1][:6]), 2, 0)


@EVERY
@given(experiment=ids, user=ids, request=ids)
def test_the_coins_are_the_requests_own(experiment: str, user: str, request: str) -> None:
    found = coins(experiment, user, request)
    assert found == coins(experiment, user, request) and 0 <= found < 2**512
    assert (
        len({found, coins(experiment + "x", user, request), coins(experiment, user + "x", request), coins("x", user, request)})
        > 2
    )


def test_the_coins_are_fair_in_every_round_and_across_requests_with_like_names() -> None:
    found = [coins("ranker", f"u{number % 50}", str(number // 50)) for number in range(5_000)]
    for number in (0, 1, 2, 249):
        assert sum(one >> number & 1 for one in found) / len(found) == pytest.approx(0.5, abs=0.03)
    both = sum(one & 1 == one >> 1 & 1 for one in found) / len(found)
    assert both == pytest.approx(0.5, abs=0.03)
