"""202 means Redis has it; a repeated event counts once, however it is repeated."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from contracts.keys import event_mark
from tests.server.live import Running, stream
from tests.server.worlds import World


def event(event_id: str = "e1", **fields: Any) -> dict[str, Any]:
    base = {"type": "click", "request_id": "r1", "user_id": "u1", "domain": "feed", "ad_id": "a1", "position": 0, "time": 1.5e9}
    return {"event_id": event_id, **base, **fields}


def post(served: Running, *events: Any) -> dict[str, Any]:
    answer = served.client.post("/v1/feedback", json={"events": list(events)})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_an_event_is_in_the_stream_when_202_comes(served: Running, store: redis.Redis) -> None:
    assert post(served, event(value=2.5)) == {"accepted": 1, "duplicates": 0, "rejected": []}
    (stored,) = stream(store, "feedback")
    assert (stored["event_id"], stored["type"], stored["value"], stored["time"]) == ("e1", "click", 2.5, 1.5e9)
    assert abs(stored["received"] - time.time()) < 60
    assert 0 < store.ttl(event_mark("e1")) <= 7 * 86400
    assert served.metric("mdrec_events_total", type="click", domain="feed", outcome="accepted") == 1


def test_a_repeated_event_counts_once(served: Running, store: redis.Redis) -> None:
    assert post(served, event("a"), event("b"), event("a"))["duplicates"] == 1
    again = post(served, event("a"), event("c"), event("b"))
    assert (again["accepted"], again["duplicates"]) == (1, 2)
    assert [one["event_id"] for one in stream(store, "feedback")] == ["a", "b", "c"]
    assert served.metric("mdrec_events_total", outcome="duplicate") == 3


def test_the_same_event_from_many_clients_at_once_counts_once(served: Running, store: redis.Redis) -> None:
    def send(_: int) -> dict[str, Any]:
        return httpx.post(f"{served.url}/v1/feedback", json={"events": [event("x"), event("y")]}, timeout=30).json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert sum(one["accepted"] for one in answers) == 2
    assert sum(one["duplicates"] for one in answers) == 30
    assert sorted(one["event_id"] for one in stream(store, "feedback")) == ["x", "y"]


def test_an_event_whose_first_sender_died_is_taken_over(served: Running, store: redis.Redis) -> None:
    """Its mark is pending and nobody finishes it: the event must not be lost as a duplicate."""
    store.set(event_mark("orphan"), b"p", ex=60)
    assert post(served, event("orphan"))["accepted"] == 1
    assert [one["event_id"] for one in stream(store, "feedback")] == ["orphan"]
    assert post(served, event("orphan"))["duplicates"] == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (event(type="view"), "type"),
        (event(domain="nowhere"), "domain"),
        (event(user_id=""), "user_id"),
        (event(ad_id="x" * 300), "ad_id"),
        (event(position=-1), "position"),
        (event(time="now"), "time"),
        (event(time=1.7e12), "time"),
        (event(time=-1), "time"),
        (event(surprise=1), "surprise"),
        ({"event_id": "e"}, "type"),
        ("text", "event"),
        (None, "event"),
    ],
    ids=str,
)
def test_a_bad_event_is_rejected_alone_with_its_reason(served: Running, store: redis.Redis, bad: Any, reason: str) -> None:
    answer = post(served, event("good"), bad, event("fine"))
    assert answer["accepted"] == 2
    (rejected,) = answer["rejected"]
    assert rejected["index"] == 1
    assert rejected["reason"].startswith(reason)
    assert len(stream(store, "feedback")) == 2
    assert served.metric("mdrec_events_total", outcome="rejected") == 1


def test_time_may_be_left_to_the_gateway(served: Running, store: redis.Redis) -> None:
    body = event()
    del body["time"]
    post(served, body)
    (stored,) = stream(store, "feedback")
    assert stored["time"] == stored["received"]


def test_ids_are_opaque(served: Running, store: redis.Redis, world: World) -> None:
    ids = ["{tag}", "é:*", "\x00", "done", "😀"]
    post(served, *[event(one, ad_id=one, user_id=one, request_id=one) for one in ids])
    assert [(one["event_id"], one["ad_id"]) for one in stream(store, "feedback")] == [(one, one) for one in ids]
