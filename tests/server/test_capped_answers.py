"""Caps as users meet them: an ad seen too often is not answered, the next best is, and whatever fails nobody goes without ads."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import redis

from contracts.keys import seen
from deploy.redis_local import LocalRedis
from server.settings import Settings
from tests.server.conftest import TOKEN
from tests.server.live import Running, eventually, running, stream
from tests.server.test_admin import call
from tests.server.worlds import World


def cap(served: Running, domain: str = "feed", **fields: Any) -> None:
    version = call(served, "GET", "caps").headers["etag"]
    answer = call(served, "PUT", f"caps/{domain}", fields, **{"If-Match": version})
    assert answer.status_code == 200, answer.text


def ads(served: Running, domain: str = "feed", user: str = "u0", k: int = 4, **fields: Any) -> list[str]:
    answer = served.recommend(user, domain, k=k, **fields)
    assert answer["degraded"] == []
    return [one["ad_id"] for one in answer["ads"]]


def tell(served: Running, ad_id: str, event_id: str, kind: str = "impression", domain: str = "feed", user: str = "u0") -> None:
    event = {"event_id": event_id, "type": kind, "request_id": "r", "user_id": user, "domain": domain, "ad_id": ad_id}
    assert served.client.post("/v1/feedback", json={"events": [event]}).json()["rejected"] == []


def test_an_ad_seen_too_often_gives_way_to_the_next(served: Running, store: redis.Redis) -> None:
    before = ads(served, k=5)
    cap(served, impressions=2, hours=24)
    best = before[0]
    tell(served, best, "e1")
    tell(served, best, "e1")  # told twice, seen once
    assert ads(served) == before[:4]
    tell(served, best, "e2")
    assert ads(served, request_id="capped", explain=True) == before[1:5]
    assert ads(served, user="u8") == ads(served, user="u8"), "another user's are theirs"
    assert best in ads(served, domain="mail", k=50), "no cap there"
    record = served.client.get("/v1/requests/capped").json()
    assert {one["reason"] for one in record["candidates"] if one["ad_id"] == best} == {"capped"}
    assert served.metric("mdrec_candidates_dropped_total", reason="capped", domain="feed") >= 1
    assert 0 < store.ttl(seen("u0")) <= 86400


def test_a_clicked_ad_rests_and_outcomes_of_other_domains_count_where_they_should(served: Running) -> None:
    cap(served, "feed", after_click_hours=1)
    cap(served, "mail", impressions=1, all_domains=True)
    (first, second), mail = ads(served, k=2), ads(served, "mail", k=6)
    tell(served, second, "e1", "click")
    assert second not in ads(served) and first in ads(served)
    tell(served, mail[0], "e2", domain="search")
    tell(served, mail[1], "e3", domain="mail")
    assert ads(served, "mail") == mail[2:6]
    assert mail[0] in ads(served, "search", k=50), "its own domain has no cap"


def test_nothing_is_kept_where_no_cap_asks(served: Running, store: redis.Redis) -> None:
    cap(served, "feed", impressions=3)
    tell(served, "a1", "e1", domain="mail")
    assert not store.exists(seen("u0"))
    tell(served, "a1", "e2")
    assert store.zcard(seen("u0")) == 1


def test_a_write_is_versioned_on_record_and_taken_back(served: Running, store: redis.Redis) -> None:
    stale = call(served, "GET", "caps").headers["etag"]
    cap(served, impressions=1)
    before = ads(served)
    tell(served, before[0], "e1")
    assert before[0] not in ads(served)
    now = call(served, "GET", "caps")
    assert now.json()["caps"]["feed"]["impressions"] == 1
    current = {"If-Match": now.headers["etag"]}
    for status, method, path, body, headers in (
        (412, "PUT", "feed", {"impressions": 9}, {"If-Match": stale}),
        (428, "PUT", "feed", {"impressions": 9}, {}),
        (422, "PUT", "nowhere", {"impressions": 9}, current),
        (422, "PUT", "feed", {"hours": 5}, current),
        (404, "DELETE", "mail", None, current),
    ):
        refused = call(served, method, f"caps/{path}", body, **headers)
        assert (refused.status_code, method, path) == (status, method, path), refused.text
    assert call(served, "DELETE", "caps/feed", **current, **{"X-Why": "enough"}).status_code == 200
    assert ads(served) == before
    latest = call(served, "GET", "audit").json()[0]
    assert latest["why"] == "enough" and latest["diff"]["caps.feed.impressions"] == [1, None]


def test_replacing_the_experiments_leaves_the_caps(served: Running) -> None:
    cap(served, impressions=1)
    version = call(served, "GET", "experiments").headers["etag"]
    assert call(served, "PUT", "experiments", {"features": {}}, **{"If-Match": version}).status_code == 200
    assert call(served, "GET", "caps").json()["caps"]["feed"]["impressions"] == 1


def test_what_cannot_be_read_caps_nothing_and_says_so(home: Path, world: World, own_redis: LocalRedis) -> None:
    settings = Settings(home=home, redis_url=own_redis.url, redis_timeout_ms=200, operator_token=TOKEN)  # type: ignore[arg-type]
    with running(settings) as served:
        cap(served, impressions=1)
        best = served.recommend("u0", "feed")["ads"][0]["ad_id"]
        tell(served, best, "e1")
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            answer = served.recommend("u0", "feed")
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        assert answer["degraded"] == ["caps", "features"] and answer["ads"]
        assert served.metric("mdrec_degraded_total", rung="caps", domain="feed") == 1
        eventually(lambda: (now := served.recommend("u0", "feed"))["degraded"] == [] and best != now["ads"][0]["ad_id"])
        with redis.Redis.from_url(own_redis.url) as client:
            client.zadd(seen("u0"), {b"no outcome": 1e15})
        assert served.recommend("u0", "feed")["degraded"] == ["caps"]
        assert served.recommend("u8", "feed")["degraded"] == []


def test_a_drawn_slate_says_what_was_capped(served: Running, store: redis.Redis) -> None:
    """Off-policy replay makes the slate again without it."""
    arm = {"recipe": "adi+dsfm", "params": {"explore": {"temperature": 0.5, "among": 20}}}
    rule = {"key": "draws", "variations": [arm, arm], "weights": [0.5, 0.5]}
    version = call(served, "GET", "experiments").headers["etag"]
    written = call(served, "PUT", "experiments", {"features": {"draws": {"rules": [rule]}}}, **{"If-Match": version})
    assert written.status_code == 200, written.text
    cap(served, impressions=1)
    tell(served, "a1", "e1")
    served.recommend("u0", "feed", k=3, exclude_ad_ids=["a2"])
    (exposure,) = eventually(lambda: stream(store, "exposure"))
    assert exposure["excluded"] == ["a2", "a1"]
