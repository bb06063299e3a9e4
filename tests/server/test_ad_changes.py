"""Ads paused, resumed and re-priced during the day: in force in every worker, over restarts and new bundles, on record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from contracts import ad_changes as layout
from contracts.ad_changes import AdChange
from contracts.ad_records import Records, ad_field
from contracts.keys import ad_changes
from deploy.redis_local import LocalRedis
from server.ad_changes import AdChanges
from server.metrics import Metrics
from server.redis_door import connect
from server.settings import Settings
from tests.server.live import Running, eventually, running
from tests.server.test_admin import AUTH, call
from tests.server.test_bad_input import problem
from tests.server.test_catalogue import agrees
from tests.server.worlds import World


def change(served: Running, *changes: dict[str, Any], domain: str = "feed", **headers: str) -> dict[str, Any]:
    answer = call(served, "PATCH", f"domains/{domain}/ads", {"changes": list(changes), "why": "test"}, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def shown(served: Running, domain: str = "feed", user: str = "u0", **fields: Any) -> list[str]:
    return [ad["ad_id"] for ad in served.recommend(user, domain, **fields)["ads"]]


def test_a_paused_ad_is_shown_nowhere_until_it_is_resumed(served: Running) -> None:
    assert shown(served, k=3) == ["a0", "a4", "a8"]
    changed = change(served, {"ad_id": "a0", "paused": True})
    assert changed == {"domain": "feed", "version": 1, "ads": [{"ad_id": "a0", "paused": True, "bid": None}]}
    assert shown(served, k=3)[:2] == ["a4", "a8"] and "a0" not in shown(served, k=12)
    assert shown(served, "mail", k=1, user="u1") == ["a0"], "it is paused in one domain"
    change(served, {"ad_id": "a0", "paused": False})
    assert shown(served, k=3) == ["a0", "a4", "a8"]


def test_a_paused_ad_is_not_popular_either(served: Running) -> None:
    class Broken:
        def search(self, *_: Any) -> Any:
            raise RuntimeError("broken on purpose")

    change(served, {"ad_id": "a0", "paused": True})
    object.__setattr__(served.gateway.registry.live.bundles["adi+dsfm"].domains["feed"], "index", Broken())
    change(served, {"ad_id": "a4", "paused": True})
    answer = served.recommend("u0", "feed", k=12)
    assert answer["degraded"] == ["popular"]
    assert {ad["ad_id"] for ad in answer["ads"]} == {f"a{row}" for row in range(12)} - {"a0", "a4"}


def test_an_ad_the_bundle_holds_inactive_is_resumed(home: Path, settings: Settings) -> None:
    World(inactive=(0,)).build(home)
    with running(settings) as served:
        assert "a0" not in shown(served, k=12)
        change(served, {"ad_id": "a0", "paused": False})
        assert shown(served, k=1) == ["a0"]
        change(served, {"ad_id": "a0", "paused": None})
        assert "a0" not in shown(served, k=12)


def test_a_bid_counts_in_answers_and_scores_and_is_given_back(served: Running, world: World) -> None:
    change(served, {"ad_id": "a3", "bid": 200.5})
    best = served.recommend("u0", "feed", k=1)["ads"][0]
    assert (best["ad_id"], best["bid"]) == ("a3", 200.5)
    assert best["rank_score"] == pytest.approx(best["p_click"] * 200.5, rel=1e-5)
    (scored,) = served.client.post("/v1/score", json={"user_id": "u0", "domain": "feed", "ad_ids": ["a3"]}).json()["scores"]
    assert scored["rank_score"] == best["rank_score"]
    change(served, {"ad_id": "a3", "paused": True})
    assert "a3" not in shown(served, k=12)
    change(served, {"ad_id": "a3", "paused": None})
    assert shown(served, k=1) == ["a3"], "a field that is left out stays"
    change(served, {"ad_id": "a3", "bid": None})
    assert shown(served, k=1) == ["a0"]
    assert call(served, "GET", "domains/feed/ads").json() == {
        "domain": "feed",
        "version": 4,
        "ads": [],
        "unreadable": [],
    }


@pytest.mark.parametrize("kind", ["exact", "ivf_flat"])
def test_when_nearly_all_are_paused_the_others_are_found(home: Path, settings: Settings, kind: str) -> None:
    World(ads=64, kind=kind).build(home)
    with running(settings.model_copy(update={"retrieve_k": 8})) as served:
        change(served, *({"ad_id": f"a{row}", "paused": True} for row in range(64) if row not in (5, 40)))
        assert shown(served, k=10) == ["a40", "a5"]


def test_it_outlives_a_restart_and_a_new_bundle(home: Path, world: World, settings: Settings) -> None:
    with running(settings) as served:
        change(served, {"ad_id": "a0", "paused": True}, {"ad_id": "a8", "bid": 9.0})
    with running(settings) as served:
        assert shown(served, k=2) == ["a8", "a4"]
        World(bundle_id="b2", ads=20).build(home)
        eventually(lambda: served.recommend()["bundle_id"] == "b2")
        assert shown(served, k=3) == ["a8", "a4", "a12"]


def test_without_redis_the_known_changes_stay_in_force(home: Path, world: World, settings: Settings, tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "redis").start()
    with running(settings.model_copy(update={"redis_url": server.url, "redis_write_timeout_ms": 200})) as served:
        change(served, {"ad_id": "a0", "paused": True})
        server.stop()
        eventually(lambda: served.metric("mdrec_background_errors_total", task="ads") > 0)
        assert "a0" not in shown(served, k=12)
        problem(call(served, "PATCH", "domains/feed/ads", {"changes": [{"ad_id": "a4", "paused": True}]}), 503)
        problem(call(served, "GET", "domains/feed/ads"), 503)
        assert "a4" in shown(served, k=12)


def test_what_is_unreadable_leaves_the_known_changes_in_force(served: Running, store: redis.Redis) -> None:
    change(served, {"ad_id": "a0", "paused": True})
    store.hset(ad_changes("feed"), mapping={"a:a4": b"{", "version": 7})
    eventually(lambda: served.metric("mdrec_background_errors_total", task="ads") > 0)
    assert "a0" not in shown(served, k=12) and "a4" in shown(served, k=12)


BROKEN = [
    b"{",
    b"[]",
    b"7",
    b'{"paused": "yes"}',
    b'{"bid": -1}',
    b'{"bid": "2"}',
    b'{"bid": 1e400}',
    b'{"x": 1}',
    b"\xff",
    b"[" * 9999,
]


@pytest.mark.parametrize("data", BROKEN)
def test_a_record_that_cannot_be_read_is_skipped_alone_and_named(
    served: Running, store: redis.Redis, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    change(served, {"ad_id": "a0", "paused": True}, {"ad_id": "a4", "paused": True})
    before = served.metric("mdrec_background_errors_total", task="ads")
    store.hset(ad_changes("feed"), mapping={"a:a4": data, "version": 7})
    eventually(lambda: "a4" in shown(served, k=12))
    store.hset(ad_changes("feed"), mapping={"a:a8": b'{"bid": 9.0}', "version": 8})
    eventually(lambda: shown(served, k=1) == ["a8"])
    assert "a0" not in shown(served, k=12), "the others stay in force"
    assert served.metric("mdrec_background_errors_total", task="ads") == before + 1, "counted once"
    said = [one.getMessage() for one in caplog.records if "unreadable" in one.getMessage()]
    assert len(said) == 1 and "'a:a4'" in said[0] and "'ads:feed'" in said[0]
    answer = call(served, "GET", "domains/feed/ads")
    assert answer.status_code == 200 and {one["ad_id"] for one in answer.json()["ads"]} == {"a0", "a8"}
    ((key, ad_id, why),) = (one.values() for one in answer.json()["unreadable"])
    assert (key, ad_id) == ("a:a4", "a4") and why


def forget(served: Running, *ad_ids: str, **headers: str) -> httpx.Response:
    where = "/admin/v1/domains/feed/ads"
    return served.client.delete(where, params={"ad_id": list(ad_ids)}, headers={**AUTH, **headers})


def test_an_unreadable_record_is_deleted_or_replaced(served: Running, store: redis.Redis) -> None:
    broken = {"a:a0": b"{", "a:a4": b"{", b"a:\xff": b"{}", "version": 7}
    store.hset(ad_changes("feed"), mapping=broken)  # type: ignore[arg-type]
    changed = change(served, {"ad_id": "a4", "paused": True})
    assert changed["ads"] == [{"ad_id": "a4", "paused": True, "bid": None}], "whoever pauses an ad must not fail for this"
    listed = call(served, "GET", "domains/feed/ads").json()["unreadable"]
    assert [one["key"] for one in listed] == ["a:a0", "a:\\xff"]
    problem(forget(served, "a0", "a8"), 404)
    problem(forget(served, "a0", **{"If-Match": '"7"'}), 412)
    left = forget(served, *(one["ad_id"] for one in listed)).json()
    assert left == {"domain": "feed", "version": 9, "ads": changed["ads"], "unreadable": []}
    assert forget(served, "a4").json()["ads"] == [] and "a4" in shown(served, k=12)
    diffs = [one["diff"] for one in call(served, "GET", "audit").json()]
    assert diffs[1] == {"ads.feed.a0": ["unreadable", None], "ads.feed.\\xff": ["unreadable", None]}
    assert diffs[2] == {"ads.feed.a4": ["unreadable", {"paused": True, "bid": None}]}


@pytest.mark.parametrize("version", [b"soon", b"", b"-1", b"1.5", b"9" * 20])
def test_a_version_that_is_no_number_is_replaced_by_the_next_write(served: Running, store: redis.Redis, version: bytes) -> None:
    change(served, {"ad_id": "a0", "paused": True})
    store.hset(ad_changes("feed"), mapping={"a:a4": b'{"paused": true}', "version": version})
    eventually(lambda: "a4" not in shown(served, k=12))
    assert call(served, "GET", "domains/feed/ads").json()["version"] == -1
    assert change(served, {"ad_id": "a8", "paused": True}, **{"If-Match": '"-1"'})["version"] > 1_700_000_000
    assert shown(served, k=12)[0] not in ("a0", "a4", "a8")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"changes": []}, "changes"),
        ({"changes": [{"paused": True}]}, "changes.0.ad_id"),
        ({"changes": [{"ad_id": "a0", "paused": "yes"}]}, "changes.0.paused"),
        ({"changes": [{"ad_id": "a0", "bid": -1}]}, "changes.0.bid"),
        ({"changes": [{"ad_id": "a0", "bid": 1e13}]}, "changes.0.bid"),
        ({"changes": [{"ad_id": "a0", "price": 1}]}, "changes.0.price"),
        ({"changes": [{"ad_id": "a0", "bid": 1}, {"ad_id": "a0", "bid": 2}]}, "changes"),
        ({"changes": [{"ad_id": "a0", "bid": 1}, {"ad_id": "nobody", "bid": 2}]}, "changes"),
        ({"changes": [{"ad_id": "a0", "bid": 1}] * 1001}, "changes"),
    ],
)
def test_bad_changes_are_named_and_nothing_is_written(unchanged: Running, body: dict[str, Any], field: str) -> None:
    found = problem(call(unchanged, "PATCH", "domains/feed/ads", body), 422)
    assert field in {one["field"] for one in found["errors"]}
    assert call(unchanged, "GET", "domains/feed/ads").json()["version"] == 0


def test_unknown_domains_are_named(unchanged: Running) -> None:
    for method, body in (("GET", None), ("PATCH", {"changes": [{"ad_id": "a0", "paused": True}]})):
        assert problem(call(unchanged, method, "domains/no/where/ads", body), 422)["known"] == ["feed", "mail", "search", "video"]


def test_a_domain_may_be_called_anything(home: Path, settings: Settings) -> None:
    World(domains=("a/b", "{x}", "ü", "ads")).build(home)
    with running(settings) as served:
        for number, name in enumerate(("a%2Fb", "%7Bx%7D", "%C3%BC", "ads")):
            change(served, {"ad_id": f"a{number}", "paused": True}, domain=name)
        for number, name in enumerate(("a/b", "{x}", "ü", "ads")):
            assert set(shown(served, name, k=12)) == {f"a{row}" for row in range(12)} - {f"a{number}"}


def test_nobodys_change_is_lost(served: Running) -> None:
    read = call(served, "GET", "domains/feed/ads")
    assert read.headers["etag"] == '"0"'
    change(served, {"ad_id": "a0", "paused": True}, **{"If-Match": '"0"'})
    body = {"changes": [{"ad_id": "a1", "paused": True}]}
    problem(call(served, "PATCH", "domains/feed/ads", body, **{"If-Match": '"0"'}), 412)
    problem(call(served, "PATCH", "domains/feed/ads", body, **{"If-Match": "soon"}), 422)
    assert change(served, {"ad_id": "a1", "paused": True})["version"] == 2, (
        "without If-Match the change is laid over what is there"
    )
    listed = call(served, "GET", "domains/feed/ads")
    assert {one["ad_id"] for one in listed.json()["ads"]} == {"a0", "a1"} and listed.headers["etag"] == '"2"'


def test_a_change_between_reading_and_writing_is_kept(redis_url: str) -> None:
    async def both() -> Records[AdChange]:
        client, other = connect(redis_url, 2000), connect(redis_url, 2000)
        mine, theirs, read = AdChanges(client, Metrics()), AdChanges(other, Metrics()), client.hmget

        async def interrupted(*arguments: Any) -> Any:
            found = await read(*arguments)
            if (await theirs.records.read("feed")).version == 0:
                await theirs.write("feed", {"a0": {"bid": 2.0}}, None)
            return found

        client.hmget = interrupted  # type: ignore[method-assign]
        version, changes = await mine.write("feed", {"a0": {"paused": True}}, None)
        assert (version, changes["a0"][0]) == (2, AdChange(bid=2.0))
        found = await mine.records.read("feed")
        await client.aclose()
        await other.aclose()
        return found

    assert asyncio.run(both()) == Records(2, {"a0": AdChange(paused=True, bid=2.0)})


def test_changes_are_on_record(served: Running) -> None:
    change(served, {"ad_id": "a0", "paused": True}, **{"X-Operator": "ada"})
    change(served, {"ad_id": "a0", "bid": 2.0, "paused": None})
    last, first = call(served, "GET", "audit").json()
    assert (first["who"], first["why"]) == ("ada", "test")
    assert first["diff"] == {"ads.feed.a0": [None, {"paused": True, "bid": None}]}
    assert last["diff"] == {"ads.feed.a0": [{"paused": True, "bid": None}, {"paused": None, "bid": 2.0}]}


def test_openapi_describes_it(served: Running) -> None:
    document = served.client.get("/openapi.json").json()
    path = document["paths"]["/admin/v1/domains/{domain}/ads"]
    for method, answer in (
        ("patch", change(served, {"ad_id": "a0", "bid": 2})),
        ("get", call(served, "GET", "domains/feed/ads").json()),
    ):
        agrees(document, path[method]["responses"]["200"]["content"]["application/json"]["schema"], answer)


def test_an_untouched_domain_is_the_bundles_own(served: Running) -> None:
    bundle = served.gateway.registry.live.bundles["adi+dsfm"]
    change(served, {"ad_id": "a0", "bid": 2.0})
    applied = {name: served.gateway.ads.applied(bundle, domain) for name, domain in bundle.domains.items()}
    assert [name for name, domain in applied.items() if domain is not bundle.domains[name]] == ["feed"]
    assert served.gateway.ads.applied(bundle, bundle.domains["feed"]) is applied["feed"], "made once"
    assert np.array(bundle.domains["feed"].ads.bid).tolist() == [1.0] * 12, "the bundle is as it was"


@given(ads=st.dictionaries(st.text(), st.builds(AdChange, st.none() | st.booleans(), st.none() | st.floats(0, 1e12))))
@example(ads={"version": AdChange(paused=True), "": AdChange(bid=0.1), "a:a:é": AdChange(paused=False)})
def test_any_id_and_change_is_read_back(ads: dict[str, AdChange]) -> None:
    fields = {ad_field(ad_id): one.pack().encode() for ad_id, one in ads.items()}
    assert layout.unpack({b"version": b"3", **fields}) == Records(3, ads)
