"""Caps as a pure rule: what is barred is what was seen too often, within the hours, in the domains that count."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from abtest.caps import Cap, counts_of, looks_back_seconds
from abtest.definitions import parse_object
from contracts.errors import BadInput
from contracts.seen import Outcome, member, outcomes

HOUR = 3_600_000.0
NOW = 1_000 * HOUR


def seen(kind: str, ad: str, hours_ago: float, domain: str = "feed") -> Outcome:
    return Outcome(kind, domain, ad, NOW - hours_ago * HOUR)


@given(
    outcomes=st.lists(
        st.tuples(
            st.sampled_from(["impression", "click", "conversion"]),
            st.sampled_from(["feed", "mail"]),
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, 60),
        )
    ),
    impressions=st.integers(1, 4),
    hours=st.integers(1, 50),
    quiet=st.one_of(st.none(), st.integers(1, 50)),
    all_domains=st.booleans(),
)
def test_what_is_barred_is_what_the_words_say(
    outcomes: list[tuple[str, str, str, int]], impressions: int, hours: int, quiet: int | None, all_domains: bool
) -> None:
    cap = Cap(impressions=impressions, hours=hours, after_click_hours=quiet, all_domains=all_domains)
    found = cap.barred("feed", [seen(kind, ad, ago, domain) for kind, domain, ad, ago in outcomes], NOW)
    count = [(kind, ad, ago) for kind, domain, ad, ago in outcomes if all_domains or domain == "feed"]
    expected = {
        ad
        for ad in "abc"
        if sum(kind == "impression" and one == ad and ago < hours for kind, one, ago in count) >= impressions
        or any(kind == "click" and one == ad and ago < (quiet or 0) for kind, one, ago in count)
    }
    assert len(found) == len(set(found)) and set(found) == expected


def test_each_outcome_has_hours_of_its_own() -> None:
    cap = Cap(after_click_hours=2, after_conversion_hours=48)
    outcomes = [seen("click", "a", 3), seen("click", "b", 1), seen("conversion", "c", 47), seen("conversion", "d", 49)]
    assert cap.barred("feed", [*outcomes, *[seen("impression", "e", 1)] * 50], NOW) == ["b", "c"]
    assert cap.looks_back_hours == 48 and Cap(impressions=1, after_click_hours=2).looks_back_hours == 24


def test_which_outcomes_are_kept_and_how_long() -> None:
    caps = {"feed": Cap(impressions=1, hours=2), "mail": Cap(impressions=1, hours=9, active=False)}
    assert [counts_of(caps, domain) for domain in ("feed", "mail")] == [True, False]
    assert looks_back_seconds(caps) == 7200 and looks_back_seconds({}) == 0
    assert counts_of({"feed": Cap(impressions=1, all_domains=True)}, "mail")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"impressions": 0},
        {"impressions": 1, "hours": 0},
        {"impressions": 1, "hours": 721},
        {"after_click_hours": -1},
        {"often": 3},
    ],
)
def test_a_cap_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cap(**fields)
    with pytest.raises(BadInput, match=r"caps\.feed"):
        parse_object({"features": {}, "caps": {"feed": fields}})


def test_caps_are_kept_with_the_definitions() -> None:
    definitions = parse_object({"features": {}, "caps": {"feed": {"impressions": 3}}})
    assert definitions.caps == {"feed": Cap(impressions=3)}
    assert b'"caps":{"feed":{"impressions":3}}' in definitions.body()


def test_a_member_says_what_it_was_made_of_and_an_event_is_one_member() -> None:
    data = member("click", "feed|x", 'a"1', "e1")
    assert outcomes([(data, 5.0), (data, 6.0)]) == [Outcome("click", "feed|x", 'a"1', at) for at in (5.0, 6.0)]
    assert outcomes([]) == []
    assert data == member("click", "feed|x", 'a"1', "e1") != member("click", "feed|x", 'a"1', "e2")
    for bad in (b"{", b"[1,2,3,4]", b'["a","b"]', b"1,2"):
        with pytest.raises(ValueError):
            outcomes([(data, 0.0), (bad, 0.0)])
