"""The simulation of interleaving in small: it finds the better ranker with far fewer users, and favours nobody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abtest.interleaving_table import needed_table, rates_table
from abtest.simulate import World
from abtest.simulate_interleaving import Rankers, clicked, merge, split, visit
from abtest.team_draft import draft
from abtest.validate_interleaving import METHODS, interleavings, needed, splits, swapped

WORLD = World(users=60, days=3, ads=4)
EQUAL = Rankers(sight=(0.5, 0.5), kinship=0.5)
BLIND = replace(EQUAL, spread=0.0, reverse=True)


def test_slates_are_those_of_the_merge_that_serves_and_credit_goes_to_their_teams() -> None:
    rng = np.random.default_rng(1)
    visits = visit(WORLD, Rankers(), rng, before=True)
    now = visits.after()
    assert 0 < len(now.user) < len(visits.user) and now.day.min() == 1
    merged = merge(now, rng)
    for row in range(len(now.user)):
        both = tuple(map(tuple, now.rankings[:, row].tolist()))
        drafts = [draft((both[0], both[1]), 4, tosses) for tosses in range(4)]
        credit = [[[one.weight * (one.team == team) for one in picks] for team in (0, 1)] for picks in drafts]
        shown = [([one.ad_id for one in picks], said) for picks, said in zip(drafts, credit, strict=True)]
        assert (merged.slates[row].tolist(), merged.credit[:, row].tolist()) in shown
    ones = merged.by_day(np.ones_like(merged.slates, dtype=np.float64))
    assert [ones[team].sum() for team in (0, 1)] == pytest.approx([merged.credit[team].sum() for team in (0, 1)])
    assert merged.credit.sum() > 0


def test_both_designs_see_the_same_people_and_a_split_shows_each_half_its_ranker() -> None:
    rng = np.random.default_rng(2)
    visits = visit(replace(WORLD, users=2_000), replace(Rankers(), sight=(0.0, 0.95), spread=1.0), rng, before=True)
    log = split(visits, rng)
    requests, shown, clicks = (one.sum() for one in log.counts[:3])
    assert (requests, shown) == (len(visits.user), 4 * len(visits.user))
    before, after = (log.counts[2][:, part].sum(axis=(1, 2)) for part in (slice(1), slice(1, None)))
    assert after[log.treated].sum() > 1.5 * after[~log.treated].sum()
    assert before[log.treated].sum() == pytest.approx(before[~log.treated].sum(), rel=0.3)
    chances = visits.chances(visits.slates[0])
    assert clicked(chances, rng).mean() == pytest.approx(chances.mean(), rel=0.1)
    assert clicks > 0


def test_interleaving_needs_a_tenth_of_the_users_of_a_split() -> None:
    found = needed(World(users=1_500, ads=10), Rankers(), seed=3)
    assert found.lift > 0 and found.margin > found.lift
    assert found.ratio > 10 and 0.94 < found.kept < 1
    short = needed(World(users=1_500, ads=3), Rankers(), seed=3)
    assert short.ratio > 10 and short.overlap < found.overlap
    assert f"| 10 ads | {found.overlap:.0%} |" in needed_table({"10 ads": [found, found]}, 3.15)


def test_the_better_ranker_is_found_in_either_place_and_equal_ones_are_not_told_apart() -> None:
    seeing = replace(Rankers(), sight=(0.1, 0.9), spread=0.8)
    better = interleavings(replace(WORLD, users=150), seeing, range(5), seed=4)
    worse = interleavings(replace(WORLD, users=150), swapped(seeing), range(5), seed=4)
    assert better.found["margin"] == worse.found["margin"] == 5
    assert better.bias[0] == pytest.approx(-worse.bias[0], abs=0.1) and better.bias[0] > 0.2
    assert splits(replace(WORLD, users=2_000), seeing, range(2), seed=4) == 1.0
    for same in (EQUAL, BLIND):
        nothing = interleavings(WORLD, same, range(60), seed=5)
        mean, error = nothing.bias
        assert abs(mean) < 4 * error
        assert nothing.share("margin") < 0.2 and nothing.share("always valid, daily") < 0.1
    text = rates_table({"nothing": nothing})
    assert "| nothing | 60 |" in text and all(name in text for name in METHODS)
