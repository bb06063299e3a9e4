"""Redis keys and event records with hostile ids, and through a real Redis."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts import keys
from contracts.events import STREAM_FIELD, ArmRecord, Exposure, Feedback, ShownAd, from_stream, to_stream

HOSTILE = [
    "_meta",
    "__meta",
    "_",
    ":",
    "a:b",
    "udf:x:y",
    "*",
    "[a]",
    "{tag}",
    "\0",
    "\r\nDEL x",
    " ",
    "é",
    "e\u0301",
    "😀",
    "\ufeff",
    "a" * 256,
]
namespaces = st.text(min_size=1).filter(lambda text: not set(text) & set(":*?[]\\{}"))


@settings(deadline=None)
@given(namespace=namespaces, user=st.text())
@example(namespace="n", user="_meta")
@example(namespace="n", user="__meta")
@example(namespace="n", user="a:b:_meta")
@example(namespace="n", user="")
def test_a_users_key_is_read_back_and_never_the_meta_key(namespace: str, user: str) -> None:
    key = keys.user_row(namespace, user)
    assert keys.parse_user_row(key) == (namespace, user)
    assert key != keys.user_row_meta(namespace)


@settings(deadline=None)
@given(one=st.tuples(namespaces, st.text()), other=st.tuples(namespaces, st.text()))
def test_different_users_have_different_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (keys.user_row(*one) == keys.user_row(*other)) == (one == other)


@pytest.mark.parametrize("namespace", ["", "a:b", "a*", "a?", "[a]", "a{b}", "a\\"])
def test_a_namespace_that_would_break_the_layout_is_refused(namespace: str) -> None:
    for build in (keys.user_row_meta, keys.user_row_pattern, lambda one: keys.user_row(one, "u")):
        with pytest.raises(ValueError, match="namespace"):
            build(namespace)


@pytest.mark.parametrize("key", ["udf:n:_meta", "exp:n:u", "udf:n", ""])
def test_what_is_no_user_row_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        keys.parse_user_row(key)


def test_a_scan_finds_one_namespace_and_every_hostile_user_in_it(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for namespace in ("night1", "night10", "night"):
            client.set(keys.user_row_meta(namespace), b"meta")
            for user in HOSTILE:
                client.set(keys.user_row(namespace, user), f"{namespace}/{user}".encode())
        found = {key.decode() for key in client.scan_iter(match=keys.user_row_pattern("night1"))}
        assert len(found) == len(HOSTILE) + 1
        users = [keys.parse_user_row(key) for key in found - {keys.user_row_meta("night1")}]
        assert sorted(users) == sorted(("night1", user) for user in HOSTILE)
        assert client.get(keys.user_row("night", "_meta")) == b"night/_meta"
        assert client.get(keys.user_row_meta("night")) == b"meta"


# --- events ---------------------------------------------------------------------------------------------------------------

ids = st.text(min_size=1, max_size=256)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text()
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
shown = st.builds(ShownAd, ad_id=ids, position=st.integers(0, 500), p_click=st.none() | numbers, rank_score=numbers, bid=numbers)
arms = st.builds(ArmRecord, experiment=st.text(), arm=st.text(), recipe=st.text())
exposures = st.builds(
    Exposure, request_id=ids, time=numbers, user_id=ids, domain=st.text(), bundle_id=st.text(), recipe=st.text(),
    arms=st.lists(arms, max_size=2), context=st.dictionaries(st.text(), json_values, max_size=3), ads=st.lists(shown, max_size=3),
    degraded=st.lists(st.text(), max_size=2),
)  # fmt: skip
feedback = st.builds(
    Feedback, event_id=ids, type=st.sampled_from(["impression", "click", "conversion"]), request_id=ids, user_id=ids,
    domain=st.text(), ad_id=ids, position=st.none() | st.integers(0, 500), time=numbers, value=st.none() | numbers,
    received=numbers,
)  # fmt: skip


@settings(deadline=None)
@given(event=exposures | feedback)
def test_events_round_trip(event: Exposure | Feedback) -> None:
    fields = to_stream(event)
    assert from_stream(fields) == event
    assert json.loads(fields[STREAM_FIELD])["kind"] == event.kind


def test_events_round_trip_through_redis(redis_url: str) -> None:
    events = [
        Feedback(event_id=one, type="click", request_id=one, user_id=one, domain=one, ad_id=one, time=0.1, received=0.2)
        for one in HOSTILE
    ]
    with redis.Redis.from_url(redis_url) as client:
        for event in events:
            client.xadd(keys.EVENTS, to_stream(event))  # type: ignore[arg-type]
        entries: Any = client.xrange(keys.EVENTS)
        assert [from_stream(fields) for _, fields in entries] == events


@pytest.mark.parametrize(
    "fields",
    [{}, {b"x": b"{}"}, {STREAM_FIELD: b""}, {STREAM_FIELD: b"{"}, {STREAM_FIELD: b"null"}, {STREAM_FIELD: b'{"kind": "planet"}'},
     {STREAM_FIELD: b"\xff"}, {STREAM_FIELD: b"[" * 100_000}],
)  # fmt: skip
def test_what_is_no_event_is_a_value_error(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_stream(fields)


def test_cut_short_events_are_refused() -> None:
    event = Feedback(event_id="e", type="click", request_id="r", user_id="u", domain="d", ad_id="a", time=1.0, received=2.0)
    data = to_stream(event)[STREAM_FIELD]
    for keep in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            from_stream({STREAM_FIELD: data[:keep]})


@pytest.mark.parametrize(
    "wrong", [{"user_id": ""}, {"ad_id": "a" * 257}, {"type": "view"}, {"surprise": 1}, {"time": "yesterday"}]
)
def test_feedback_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    good = {
        "event_id": "e",
        "type": "click",
        "request_id": "r",
        "user_id": "u",
        "domain": "d",
        "ad_id": "a",
        "time": 1.0,
        "received": 2.0,
    }
    Feedback(**good)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Feedback(**{**good, **wrong})
