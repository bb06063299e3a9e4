"""The merge of two rankings: whole, balanced, replayable, and fair whatever the rankings are."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abtest.team_draft import Pick, Rankings, coins, draft

ADS = [f"a{number}" for number in range(12)]
rankings = st.tuples(st.lists(st.sampled_from(ADS), unique=True), st.lists(st.sampled_from(ADS), unique=True))
sizes = st.integers(1, 15)
tosses = st.integers(0, 2**64 - 1)
ids = st.text("ab1é☃", max_size=20)
EVERY = settings(deadline=None, max_examples=100)


def drafted(both: Rankings[str], picks: list[Pick[str]]) -> int:
    """How many of the picks belong to rounds, which begin while both rankings have ads left; the rest fills up."""
    for start in range(0, len(picks), 2):
        if any({one.ad_id for one in picks[:start]}.issuperset(ranking) for ranking in both):
            return start
    return len(picks)


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_a_slate_is_distinct_and_as_long_as_the_union_allows(both: Rankings[str], k: int, toss: int) -> None:
    ads = [pick.ad_id for pick in draft(both, k, toss)]
    assert len(set(ads)) == len(ads) == min(k, len({*both[0], *both[1]}))


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_each_pick_is_the_best_that_its_team_had_left_and_rounds_are_balanced(both: Rankings[str], k: int, toss: int) -> None:
    picks = draft(both, k, toss)
    for number, pick in enumerate(picks):
        earlier = {one.ad_id for one in picks[:number]}
        assert both[pick.team][pick.rank] == pick.ad_id == next(ad for ad in both[pick.team] if ad not in earlier)
    for start in range(0, drafted(both, picks), 2):  # a round has not begun before both had their pick of the one before
        assert sum(one.team for one in picks[:start]) == start // 2


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_swapping_the_teams_under_the_same_coins_swaps_the_credit_and_nothing_else(
    both: Rankings[str], k: int, toss: int
) -> None:
    here, there = draft(both, k, toss), draft((both[1], both[0]), k, ~toss)
    assert [(one.ad_id, one.rank, one.counts) for one in here] == [(one.ad_id, one.rank, one.counts) for one in there]
    full = drafted(both, here)
    assert [one.team for one in here[:full]] == [1 - one.team for one in there[:full]]
    assert all(not one.counts for one in here[full:])


@EVERY
@given(both=rankings, k=sizes, toss=tosses)
def test_a_place_counts_if_its_rounds_coin_could_have_put_another_ad_there(both: Rankings[str], k: int, toss: int) -> None:
    picks = draft(both, k, toss)
    for number, pick in enumerate(picks):
        other = draft(both, k, toss ^ (1 << number // 2))[number]
        assert pick.counts == (other.ad_id != pick.ad_id and number < drafted(both, picks))


@EVERY
@given(both=rankings, k=st.integers(1, 8), places=st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_clicks_that_know_nothing_of_the_ads_favour_nobody(both: Rankings[str], k: int, places: list[int]) -> None:
    """Exactly, over all coins: whatever the rankings are and whatever a place is worth."""
    credit = 0
    for bits in product((0, 1), repeat=4):
        picks = draft(both, k, sum(bit << number for number, bit in enumerate(bits)))
        credit += sum((1 if one.team else -1) * places[at] for at, one in enumerate(picks) if one.counts)
    assert credit == 0


def test_equal_rankings_get_no_credit_and_a_shared_beginning_none_for_it() -> None:
    assert not any(one.counts for toss in range(64) for one in draft((ADS, ADS), 10, toss))
    for toss in range(16):
        picks = draft((["x", "y", "a", "b"], ["x", "y", "c", "d"]), 4, toss)
        assert [one.ad_id for one in picks[:2]] == ["x", "y"]
        assert [one.counts for one in picks] == [False, False, True, True]


def test_the_rounds_by_hand() -> None:
    """Balanced interleaving would favour the second of these under random clicks; here each round's coin is fair."""
    both = (["a", "b", "c"], ["b", "c", "a"])
    found = {toss: [(one.ad_id, one.team, one.counts) for one in draft(both, 3, toss)] for toss in range(4)}
    assert found[0b00] == [("a", 0, True), ("b", 1, True), ("c", 0, False)]
    assert found[0b11] == [("b", 1, True), ("a", 0, True), ("c", 1, False)]


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
