"""Ads added during the day: retrieved, ranked, scored, priced and paused like any other, over restarts and new bundles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from contracts import added_ads as layout
from contracts.ad_records import Records, ad_field
from contracts.added_ads import AddedAd
from contracts.keys import added_ads, user_row
from contracts.schema import PAD, UNKNOWN
from contracts.user_row import UserRow
from deploy.redis_local import LocalRedis
from server import admin_added
from server.bundle import Bundle
from server.settings import Settings
from tests.server.live import Running, eventually, running
from tests.server.test_ad_changes import change, shown
from tests.server.test_admin import AUTH, call
from tests.server.test_bad_input import problem
from tests.server.test_catalogue import agrees
from tests.server.worlds import World

PATH = "domains/feed/added-ads"
RECIPE = "adi+dsfm"


def ad(ad_id: str, kind: Any = 0, bid: float = 50.0, **features: Any) -> dict[str, Any]:
    return {"ad_id": ad_id, "bid": bid, "features": {"class": kind, "length": 1.5, "quality": None, **features}}


def add(served: Running, *ads: dict[str, Any], path: str = PATH, **headers: str) -> dict[str, Any]:
    answer = call(served, "POST", path, {"ads": list(ads), "why": "test"}, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def take_away(served: Running, *ad_ids: str) -> httpx.Response:
    return served.client.delete(f"/admin/v1/{PATH}", params={"ad_id": list(ad_ids)}, headers=AUTH)


@pytest.fixture
def world(home: Path) -> World:
    world = World(with_features=True)
    world.build(home)
    return world


@pytest.fixture
def served(world: World, settings: Settings) -> Iterator[Running]:
    with running(settings) as one:
        yield one


def test_an_added_ad_is_retrieved_ranked_and_scored_as_its_features_say(served: Running, world: World) -> None:
    assert "n" not in shown(served, k=12)
    answer = add(served, ad("n", 0))
    assert answer == {
        "domain": "feed",
        "version": 1,
        "limit": admin_added.MAX_ADDED,
        "ads": [{**ad("n", 0), "bundles": {RECIPE: "features"}}],
    }
    found = served.recommend("u0", "feed", k=13)["ads"]
    assert found[0]["ad_id"] == "n" and {one["ad_id"] for one in found} == {"n", *(f"a{row}" for row in range(12))}
    assert found[0]["retrieval_score"] == 1.0 and found[0]["p_click"] == pytest.approx(world.p_click(0, "feed", 0), abs=1e-6)
    assert (found[0]["bid"], found[0]["rank_score"]) == (50.0, pytest.approx(50 * world.p_click(0, "feed", 0), rel=1e-5))
    asked = {"user_id": "u1", "domain": "feed", "ad_ids": ["a1", "n", "nobody"]}
    scored = served.client.post("/v1/score", json=asked).json()
    assert [one["ad_id"] for one in scored["scores"]] == ["a1", "n"] and scored["unknown_ad_ids"] == ["nobody"]
    assert scored["scores"][1]["p_click"] == pytest.approx(world.p_click(1, "feed", 0), abs=1e-6)
    assert "n" not in shown(served, "mail", k=13, user="u1"), "it is added to one domain"
    assert "n" not in shown(served, k=12, exclude_ad_ids=["n"])


def test_it_is_paused_and_priced_like_any_other_and_taken_away_for_good(served: Running) -> None:
    add(served, ad("n", 0), ad("m", 0, 0.5))
    assert shown(served, k=1) == ["n"]
    change(served, {"ad_id": "n", "paused": True}, {"ad_id": "m", "bid": 70.0})
    assert shown(served, k=13)[0] == "m" and "n" not in shown(served, k=13)
    change(served, {"ad_id": "n", "paused": False})
    assert shown(served, k=2) == ["m", "n"]
    left = take_away(served, "m").json()
    assert (left["version"], [one["ad_id"] for one in left["ads"]], left["unreadable"]) == (2, ["n"], [])
    assert "m" not in shown(served, k=13)
    assert {one["ad_id"] for one in call(served, "GET", "domains/feed/ads").json()["ads"]} == {"n"}
    add(served, ad("m", 0, 0.5))
    assert {one["ad_id"]: one["bid"] for one in served.recommend("u0", "feed", k=14)["ads"]}["m"] == 0.5
    assert problem(take_away(served, "nobody", "n"), 404)["unknown_ad_ids"] == ["nobody"]
    assert shown(served, k=1) == ["n"], "all or none"


def test_a_request_is_untouched_while_nothing_is_added(served: Running) -> None:
    bundle = served.gateway.registry.live.bundles[RECIPE]
    add(served, ad("n"))
    domains = {name: served.gateway.ads.applied(bundle, domain) for name, domain in bundle.domains.items()}
    assert [name for name, domain in domains.items() if domain is not bundle.domains[name]] == ["feed"]
    assert served.gateway.ads.applied(bundle, bundle.domains["feed"]) is domains["feed"], "made once"
    take_away(served, "n")
    assert served.gateway.ads.applied(bundle, bundle.domains["feed"]) is bundle.domains["feed"]


def test_row_numbers_join_ids_features_and_index(served: Running, world: World) -> None:
    add(served, *(ad(f"n{number}", number, number + 1.0, length=number) for number in (3, 1, 2)))
    bundle = served.gateway.registry.live.bundles[RECIPE]
    view = served.gateway.ads.applied(bundle, bundle.domains["feed"])
    assert [*view.ads.ids][12:] == ["n1", "n2", "n3"] and len(view.ads) == view.index.size == 15
    rows = np.arange(15)
    vectors = view.ad_tower.run({"ad_codes": view.ads.codes[rows], "ad_dense": view.ads.dense[rows]})
    for row in (0, 5, 13, 14):
        assert view.ads.ids.find([view.ads.ids[row]]).tolist() == [row]
        assert view.index.search(vectors[row][None], 1, rows == row).scores[0].tolist() == [1.0]
        assert vectors[row].argmax() == (row % 4 if row < 12 else row - 11)
    assert view.ads.bid[12:].tolist() == [2.0, 3.0, 4.0] and view.ads.active.all()


def test_codes_are_those_of_the_schema_for_an_ad_without_history(world: World, home: Path) -> None:
    schema = Bundle(home / "bundles" / "b1").schema
    ads = {"a1": AddedAd(1.0, {"class": 1, "length": 1.5, "quality": 5}), "n": AddedAd(1.0, {"class": "odd", "length": None})}
    encoded = layout.encode(schema, ads)
    known = schema.encode_block("ad", {"ad_id": ["a1"], "class": [1], "length": [1.5], "quality": [5]}, 1)
    assert encoded.codes[0].tolist() == known.codes[0].tolist() and encoded.dense[0].tolist() == known.dense[0].tolist() == [2.0]
    assert encoded.codes[1].tolist() == [UNKNOWN, UNKNOWN, *[PAD] * 4] and encoded.dense[1].tolist() == [0.0]


def test_statistics_of_its_category_are_those_of_the_bundles_ads(served: Running) -> None:
    add(served, ad("n0", 2), ad("n1", "purple"), ad("n2", None), ad("n3", 0))
    bundle = served.gateway.registry.live.bundles[RECIPE]
    ads = served.gateway.ads.applied(bundle, bundle.domains["feed"]).ads
    at = {one.name: one.start for one in bundle.schema.block("ad").fields}
    names = ("class impressions", "class rate in domain", "ad_id impressions")
    found = ads.codes[np.arange(12, 16)][:, [at[name] for name in names]].tolist()
    twins = ads.codes[np.array([2, 0])][:, [at[name] for name in names[:2]]].tolist()
    assert found == [[*twins[0], PAD], [PAD] * 3, [PAD] * 3, [*twins[1], PAD]] and twins[0] != twins[1]


def test_values_never_seen_are_encoded_as_such(served: Running) -> None:
    answer = add(served, ad("n", "purple", 1000.0))
    assert answer["ads"][0]["bundles"] == {RECIPE: "unseen"}, "the tower reads the class alone"
    found = {one["ad_id"]: one for one in served.recommend("u0", "feed", k=13)["ads"]}
    assert found["n"]["retrieval_score"] == 0.0 and found["n"]["rank_score"] > 400


def test_retrievers_that_know_ids_alone_place_it_like_any_unseen_ad(home: Path, settings: Settings) -> None:
    World().build(home)
    with running(settings) as served:
        answer = add(served, {"ad_id": "n", "bid": 1000.0, "features": {}})
        assert answer["ads"][0]["bundles"] == {RECIPE: "unseen"}
        assert shown(served, k=13)[0] == "n", "found where there is room, and worth its bid"


def test_it_outlives_a_restart_and_a_new_bundle_that_lacks_it(home: Path, world: World, settings: Settings) -> None:
    with running(settings) as served:
        add(served, ad("n", 0))
    with running(settings) as served:
        assert shown(served, k=1) == ["n"]
        World(bundle_id="b2", ads=20, with_features=True).build(home)
        eventually(lambda: served.recommend()["bundle_id"] == "b2")
        assert shown(served, k=1) == ["n"] and len(shown(served, k=30)) == 21
        take_away(served, "n")
        assert len(shown(served, k=30)) == 20


def test_a_new_bundle_that_has_it_makes_the_addition_moot(home: Path, world: World, settings: Settings) -> None:
    with running(settings) as served:
        add(served, ad("a12", 1), ad("n", 1))
        World(bundle_id="b2", ads=13, with_features=True).build(home)
        eventually(lambda: served.recommend()["bundle_id"] == "b2")
        found = {one["ad_id"]: one for one in served.recommend("u0", "feed", k=30)["ads"]}
        assert len(found) == 14 and (found["a12"]["bid"], found["a12"]["retrieval_score"]) == (1.0, 1.0), "the bundle's own"
        listed = {one["ad_id"]: one["bundles"][RECIPE] for one in call(served, "GET", PATH).json()["ads"]}
        assert listed == {"a12": "table", "n": "features"}


def test_a_bundle_that_reads_a_feature_otherwise_skips_those_it_cannot_read(home: Path, settings: Settings) -> None:
    World(with_features=True, length_kind="categorical").build(home)
    with running(settings) as served:
        add(served, ad("n", 0), ad("m", 0, length="long"))
        World(bundle_id="b2", with_features=True).build(home)
        eventually(lambda: served.recommend()["bundle_id"] == "b2")
        assert shown(served, k=1) == ["n"] and "m" not in shown(served, k=30)
        listed = {one["ad_id"]: one["bundles"][RECIPE] for one in call(served, "GET", PATH).json()["ads"]}
        assert listed == {"n": "features", "m": "skipped"}
        assert served.metric("mdrec_background_errors_total", task="ads") > 0


def test_a_tower_that_fails_costs_the_added_ads_alone(served: Running) -> None:
    class Broken:
        def run(self, feeds: Any) -> Any:
            return np.full((len(feeds["ad_codes"]), 4), np.nan, dtype=np.float32)

    object.__setattr__(served.gateway.registry.live.bundles[RECIPE].domains["feed"], "ad_tower", Broken())
    assert add(served, ad("n"))["ads"][0]["bundles"] == {RECIPE: "skipped"}
    assert len(shown(served, k=30)) == 12 and served.metric("mdrec_background_errors_total", task="ads") == 1


def test_a_request_sees_one_moment(served: Running) -> None:
    """Whatever operators do meanwhile: each answer has ids, features, bids and scores that belong together."""
    bundle = served.gateway.registry.live.bundles[RECIPE]
    own = bundle.domains["feed"]
    add(served, ad("n", 0), ad("z", 1))
    before = served.gateway.ads.applied(bundle, own)
    add(served, ad("b", 2))
    take_away(served, "n")
    assert [*before.ads.ids][12:] == ["n", "z"] and before.index.size == 14, "a view that is held does not move"
    assert [*served.gateway.ads.applied(bundle, own).ads.ids][12:] == ["b", "z"]


@pytest.mark.parametrize("kind", ["exact", "ivf_flat"])
def test_when_nearly_all_are_paused_the_added_one_is_found(home: Path, settings: Settings, kind: str) -> None:
    World(ads=64, kind=kind, with_features=True).build(home)
    with running(settings.model_copy(update={"retrieve_k": 8})) as served:
        add(served, ad("n", 2))
        change(served, *({"ad_id": f"a{row}", "paused": True} for row in range(64) if row != 40))
        assert shown(served, k=10) == ["n", "a40"]


def test_an_impression_of_it_counts_in_the_users_row(home: Path, settings: Settings, store: redis.Redis) -> None:
    world = World(with_features=True, with_encoder=True)
    world.build(home)
    with running(settings) as served:
        add(served, ad("n", 0))
        store.set(user_row(world.namespace, "u0"), world.user_row(0).pack())
        request_id = served.recommend("u0", "feed", k=1)["request_id"]
        eventually(lambda: store.exists(f"req:{request_id}"))
        event = {"event_id": "e", "type": "impression", "request_id": request_id, "user_id": "u0", "domain": "feed", "ad_id": "n"}
        assert served.client.post("/v1/feedback", json={"events": [event]}).status_code == 202
        eventually(lambda: UserRow.unpack(store.get(user_row(world.namespace, "u0"))).counts.sum() == 1)  # type: ignore[arg-type]


def test_without_redis_the_added_ads_stay(home: Path, world: World, settings: Settings, tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "redis").start()
    with running(settings.model_copy(update={"redis_url": server.url, "redis_write_timeout_ms": 200})) as served:
        add(served, ad("n", 0))
        server.stop()
        eventually(lambda: served.metric("mdrec_background_errors_total", task="ads") > 0)
        assert shown(served, k=1) == ["n"]
        for answer in (call(served, "POST", PATH, {"ads": [ad("m")]}), call(served, "GET", PATH), take_away(served, "n")):
            problem(answer, 503)


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"ads": []}, "ads", "at least 1"),
        ({"ads": [{"ad_id": "n", "bid": 1}]}, "ads.0.features", "required"),
        ({"ads": [{**ad("n"), "bid": -1}]}, "ads.0.bid", "greater"),
        ({"ads": [{**ad("n"), "bid": None}]}, "ads.0.bid", "number"),
        ({"ads": [{**ad("n"), "colour": 1}]}, "ads.0.colour", "not permitted"),
        ({"ads": [ad("n"), ad("n", 1)]}, "ads", "twice"),
        ({"ads": [ad("n", ["0"])]}, "ads.0.features.class", "valid"),
        ({"ads": [ad("m"), ad("n", colour="red")]}, "ads.1.features.colour", "'red'.*leave it out.*class, length, quality"),
        ({"ads": [{**ad("n"), "features": {"class": 0, "quality": 1}}]}, "ads.0.features.length", "missing.*or null"),
        ({"ads": [ad("n", length="long")]}, "ads.0.features.length", "'long'.*send a number"),
        ({"ads": [ad("n", quality=10**400)]}, "ads.0.features.quality", "send a number"),
        ({"ads": [ad("n", **{"ad_id impressions": 3})]}, "ads.0.features.ad_id impressions", "leave it out"),
    ],
)
def test_bad_ads_are_named_and_nothing_is_written(unchanged: Running, body: dict[str, Any], field: str, says: str) -> None:
    found = problem(call(unchanged, "POST", PATH, body), 422)
    messages = {one["field"]: one["message"] for one in found["errors"]}
    assert re.search(says, next(text for name, text in messages.items() if name.startswith(field))), messages
    assert call(unchanged, "GET", PATH).json()["version"] == 0


def test_what_is_there_already_is_a_conflict(served: Running) -> None:
    found = problem(call(served, "POST", PATH, {"ads": [ad("n"), ad("a3")]}), 409)
    assert found["ad_ids"] == ["a3"] and "'a3'" in found["detail"] and "bundle" in found["detail"]
    add(served, ad("n"))
    found = problem(call(served, "POST", PATH, {"ads": [ad("m"), ad("n")]}), 409)
    assert found["ad_ids"] == ["n"] and "added already" in found["detail"]
    assert [one["ad_id"] for one in call(served, "GET", PATH).json()["ads"]] == ["n"]


def test_an_ad_that_one_of_two_bundles_has_is_added_to_the_other(home: Path, world: World, settings: Settings) -> None:
    World(bundle_id="c1", recipe="adi+other", ads=13, with_features=True).build(home)
    with running(settings) as served:
        answer = add(served, ad("a12", 0))
        assert answer["ads"][0]["bundles"] == {RECIPE: "features", "adi+other": "table"}


def test_no_more_than_the_limit(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_added, "MAX_ADDED", 3)
    add(served, ad("n0"), ad("n1"))
    found = problem(call(served, "POST", PATH, {"ads": [ad("n2"), ad("n3")]}), 422)
    assert "limit of 3" in found["detail"]
    add(served, ad("n2"))
    take_away(served, "n0")
    add(served, ad("n3"))


def test_nobodys_addition_is_lost_and_all_are_on_record(served: Running) -> None:
    assert call(served, "GET", PATH).headers["etag"] == '"0"'
    add(served, ad("n"), **{"If-Match": '"0"', "X-Operator": "ada"})
    problem(call(served, "POST", PATH, {"ads": [ad("m")]}, **{"If-Match": '"0"'}), 412)
    take_away(served, "n")
    last, first = call(served, "GET", "audit").json()
    record = {"bid": 50.0, "features": ad("n")["features"]}
    assert (first["who"], first["why"], first["diff"]) == ("ada", "test", {"added_ads.feed.n": [None, record]})
    assert last["diff"] == {"added_ads.feed.n": [record, None]}


def test_unknown_domains_are_named_and_any_name_will_do(home: Path, settings: Settings) -> None:
    World(domains=("a/b", "{x}", "ü", "added-ads"), with_features=True).build(home)
    with running(settings) as served:
        for number, name in enumerate(("a%2Fb", "%7Bx%7D", "%C3%BC", "added-ads")):
            add(served, ad(f"n{number}"), path=f"domains/{name}/added-ads")
        for number, name in enumerate(("a/b", "{x}", "ü", "added-ads")):
            assert set(shown(served, name, k=30)) == {f"a{row}" for row in range(12)} | {f"n{number}"}
        assert len(problem(call(served, "GET", "domains/nowhere/added-ads"), 422)["known"]) == 4


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"bid": "1"}', b'{"bid": 1, "features": 3}', b'{"bid": 1, "features": {"class": [1]}}', b'{"x": 1}', b"\xff"],
)
def test_a_record_that_cannot_be_read_is_skipped_named_and_taken_away(served: Running, store: redis.Redis, data: bytes) -> None:
    add(served, ad("n", 0))
    store.hset(added_ads("feed"), mapping={b"a:bad": data, b"a:\xffid": b"{}", b"version": 7})
    eventually(lambda: served.metric("mdrec_background_errors_total", task="ads") >= 2)
    assert shown(served, k=1) == ["n"] and len(shown(served, k=30)) == 13
    listed = call(served, "GET", PATH).json()
    assert [one["key"] for one in listed["unreadable"]] == ["a:bad", "a:\\xffid"] and all(
        one["why"] for one in listed["unreadable"]
    )
    left = take_away(served, *(one["ad_id"] for one in listed["unreadable"])).json()
    assert left["unreadable"] == [] and left["version"] == 8 and set(store.hkeys(added_ads("feed"))) == {b"version", b"a:n"}


def test_openapi_describes_it(served: Running) -> None:
    document = served.client.get("/openapi.json").json()
    path = document["paths"]["/admin/v1/domains/{domain}/added-ads"]
    answers = {"post": add(served, ad("n")), "get": call(served, "GET", PATH).json(), "delete": take_away(served, "n").json()}
    for method, answer in answers.items():
        agrees(document, path[method]["responses"]["200"]["content"]["application/json"]["schema"], answer)
    assert {"409", "422", "412"} <= path["post"]["responses"].keys() and "404" in path["delete"]["responses"]


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(ads=st.dictionaries(st.text(), st.builds(AddedAd, st.floats(0, 1e12), st.dictionaries(st.text(), values))))
def test_any_id_and_features_are_read_back(ads: dict[str, AddedAd]) -> None:
    fields = {ad_field(ad_id): one.pack().encode() for ad_id, one in ads.items()}
    assert layout.unpack({b"version": b"3", **fields}) == Records(3, ads)
