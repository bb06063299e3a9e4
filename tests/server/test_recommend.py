"""The whole chain on a world whose every probability is known: right routing, right scores, right order, right record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import redis

from contracts.keys import user_row
from contracts.user_row import blend
from server.edge import Edge
from server.settings import Settings
from tests.server.live import Running, eventually, running, stream
from tests.server.worlds import DOMAINS, KAPPA, WIDTH, World


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("user", range(4))
def test_every_user_gets_the_wanted_ads_of_each_domain_first(
    shared: Running, checkerboard: World, user: int, domain: str
) -> None:
    answer = shared.recommend(f"u{user}", domain, k=3, context={"hour": "20"})
    assert answer["degraded"] == []
    assert answer["bundle_id"] == "b1"
    assert [ad["position"] for ad in answer["ads"]] == [0, 1, 2]
    for ad in answer["ads"]:
        row = int(ad["ad_id"][1:])
        assert checkerboard.wants(user, domain, row)
        assert ad["p_click"] == pytest.approx(checkerboard.p_click(user, domain, row, "20"), abs=1e-5)
        assert ad["rank_score"] == pytest.approx(ad["p_click"] * ad["bid"])
        assert ad["retrieval_score"] == 1.0


def test_equal_scores_keep_retrieval_order(shared: Running) -> None:
    answer = shared.recommend("u0", "feed", k=12)
    assert [ad["ad_id"] for ad in answer["ads"]] == [f"a{row}" for row in (0, 4, 8, 1, 2, 3, 5, 6, 7, 9, 10, 11)]


def test_bids_decide_among_equal_probabilities(home, settings: Settings) -> None:
    world = World(bid_step=0.05)
    world.build(home)
    with running(settings) as served:
        ads = served.recommend("u0", "feed", k=3)["ads"]
    assert [ad["ad_id"] for ad in ads] == ["a8", "a4", "a0"]
    assert ads[0]["bid"] == pytest.approx(world.bid(8))
    assert ads[0]["rank_score"] == pytest.approx(world.p_click(0, "feed", 8) * world.bid(8), rel=1e-5)


def test_timings_name_the_stages_and_add_up(shared: Running) -> None:
    timings = shared.recommend()["timings_ms"]
    assert list(timings) == ["hydrate", "encode", "retrieve", "filter", "rank", "select", "total"]
    assert sum(value for name, value in timings.items() if name != "total") <= timings["total"] + 0.01


def test_context_is_encoded_as_in_training(shared: Running, checkerboard: World) -> None:
    for hour in ("0", "12", "unseen", None):
        ad = shared.recommend(context={} if hour is None else {"hour": hour})["ads"][0]
        assert ad["p_click"] == pytest.approx(checkerboard.p_click(1, "search", int(ad["ad_id"][1:]), hour), abs=1e-5)
    number, text = (shared.recommend(context={"hour": hour})["ads"][0]["p_click"] for hour in (20, "20"))
    assert number == text


def test_a_standardised_context_value_reaches_the_ranker(shared: Running) -> None:
    cold, warm = (shared.recommend("nobody", context={"temperature": t})["ads"][0]["p_click"] for t in (10.0, 15.0))
    assert np.log(warm / (1 - warm)) - np.log(cold / (1 - cold)) == pytest.approx(1.0, abs=1e-4)


def test_k_beyond_the_catalogue_returns_what_there_is(shared: Running, checkerboard: World) -> None:
    ads = shared.recommend(k=500)["ads"]
    assert len(ads) == checkerboard.ads
    assert len({ad["ad_id"] for ad in ads}) == checkerboard.ads


def test_excluded_and_inactive_ads_leave_and_are_counted(home, settings: Settings) -> None:
    World(inactive=(0,)).build(home)
    with running(settings) as served:
        answer = served.recommend("u0", "feed", k=12, exclude_ad_ids=["a4", "a5", "nobody", "a4"])
        assert answer["degraded"] == []
        assert {ad["ad_id"] for ad in answer["ads"]} == {f"a{row}" for row in range(12)} - {"a0", "a4", "a5"}
        assert answer["ads"][0]["ad_id"] == "a8"
        assert served.metric("mdrec_candidates_dropped_total", reason="inactive", domain="feed") == 1
        assert served.metric("mdrec_candidates_dropped_total", reason="excluded", domain="feed") == 2


@pytest.mark.parametrize("kind", ["exact", "ivf_flat"])
def test_when_the_filter_takes_too_many_the_rest_is_searched(home, settings: Settings, kind: str) -> None:
    """Eight candidates, all of them excluded or inactive: the answer still holds the k best of the others."""
    World(ads=64, inactive=tuple(range(0, 32, 4)), kind=kind).build(home)
    with running(settings.model_copy(update={"retrieve_k": 8})) as served:
        answer = served.recommend("u0", "feed", k=6, exclude_ad_ids=["a32", "a36"])
    assert answer["degraded"] == []
    assert [ad["ad_id"] for ad in answer["ads"]] == ["a40", "a44", "a48", "a52", "a56", "a60"]


def test_a_retriever_alone_answers_by_retrieval_score(home, settings: Settings) -> None:
    World(with_ranker=False, recipe="adi").build(home)
    with running(settings) as served:
        ads = served.recommend("u2", "video", k=5)["ads"]
        scores = served.client.post("/v1/score", json={"user_id": "u2", "domain": "video", "ad_ids": ["a1", "a0"]}).json()
    assert [ad["ad_id"] for ad in ads] == ["a0", "a4", "a8", "a1", "a2"]
    assert all(ad["p_click"] is None and ad["rank_score"] == ad["retrieval_score"] for ad in ads)
    assert scores["scores"] == [
        {"ad_id": "a1", "p_click": None, "rank_score": 0.0},
        {"ad_id": "a0", "p_click": None, "rank_score": 1.0},
    ]


def test_a_stored_row_blends_the_users_vectors_with_the_prior(served: Running, world: World, store: redis.Redis) -> None:
    counts = [0.0, 3.0, 0.0, 0.0]
    vectors = np.zeros((4, WIDTH))
    vectors[1] = [0.5, 0.25]
    row = world.user_row(1, counts, vectors)
    store.set(user_row(world.namespace, "u1"), row.pack())
    expected = blend(row.vectors, row.counts, np.zeros((4, WIDTH), dtype=np.float32), KAPPA)[1].sum()
    ad = served.recommend("u1", "search", k=1)["ads"][0]
    assert ad["p_click"] == pytest.approx(world.p_click(1, "search", int(ad["ad_id"][1:]), row_vector=float(expected)), abs=1e-4)
    other = served.recommend("u1", "feed", k=1)["ads"][0]
    assert other["p_click"] == pytest.approx(world.p_click(1, "feed", int(other["ad_id"][1:])), abs=1e-4)


def test_a_stranger_is_answered_undegraded_by_the_prior(shared: Running, checkerboard: World) -> None:
    answer = shared.recommend("never seen before", "mail", k=12)
    assert answer["degraded"] == []
    assert len(answer["ads"]) == 12
    assert answer["ads"][0]["p_click"] == pytest.approx(checkerboard.p_click(None, "mail", 0), abs=1e-5)


def test_score_answers_in_the_order_asked_and_names_unknown_ads(shared: Running, checkerboard: World) -> None:
    asked = ["a7", "who", "a0", "a7", "what", "who"]
    body = {"user_id": "u1", "domain": "feed", "context": {"hour": "12"}, "ad_ids": asked}
    answer = shared.client.post("/v1/score", json=body).json()
    assert [one["ad_id"] for one in answer["scores"]] == ["a7", "a0", "a7"]
    assert answer["unknown_ad_ids"] == ["who", "what"]
    for one in answer["scores"]:
        assert one["p_click"] == pytest.approx(checkerboard.p_click(1, "feed", int(one["ad_id"][1:]), "12"), abs=1e-5)


def test_score_of_only_unknown_ads_is_empty(shared: Running) -> None:
    answer = shared.client.post("/v1/score", json={"user_id": "u", "domain": "feed", "ad_ids": ["x"]})
    assert answer.status_code == 200
    assert answer.json()["scores"] == []


def test_an_ad_scored_alone_equals_the_ad_recommended_in_a_crowd(shared: Running) -> None:
    for ad in shared.recommend("u3", "mail", k=12, context={"hour": "0"})["ads"]:
        body = {"user_id": "u3", "domain": "mail", "context": {"hour": "0"}, "ad_ids": [ad["ad_id"]]}
        (alone,) = shared.client.post("/v1/score", json=body).json()["scores"]
        assert alone["rank_score"] == ad["rank_score"]


def test_request_ids_are_kept_or_made(shared: Running) -> None:
    assert shared.recommend(request_id="mine/ü?#")["request_id"] == "mine/ü?#"
    made = {shared.recommend(request_id=None)["request_id"] for _ in range(3)}
    assert len(made) == 3
    assert all(len(one) == 32 for one in made)


def test_an_explained_request_says_where_every_candidate_left(home, settings: Settings) -> None:
    World(inactive=(1,)).build(home)
    with running(settings) as served:
        asked = "why/nöt?"
        answer = served.recommend("u0", "feed", k=2, exclude_ad_ids=["a0"], explain=True, request_id=asked)
        record = served.client.get("/v1/requests/why%2Fn%C3%B6t%3F").json()
        missing = served.client.get("/v1/requests/unknown")
    assert record["request_id"] == asked
    assert record["bundle_id"] == answer["bundle_id"]
    left = {one["ad_id"]: (one["left_at"], one["reason"], one["position"]) for one in record["candidates"]}
    assert len(left) == 12
    assert left["a0"] == ("filter", "excluded", None)
    assert left["a1"] == ("filter", "inactive", None)
    assert left["a4"] == (None, None, 0)
    assert left["a8"] == (None, None, 1)
    assert left["a2"] == ("select", "below the top 2", None)
    assert missing.status_code == 404


def test_each_answer_becomes_one_exposure(served: Running, world: World, store: redis.Redis) -> None:
    answer = served.recommend("u1", "search", k=2, context={"hour": "20", "n": 3}, request_id="r1")
    (event,) = eventually(lambda: stream(store, "exposure"))
    assert (event["request_id"], event["user_id"], event["domain"]) == ("r1", "u1", "search")
    assert (event["bundle_id"], event["recipe"], event["arms"]) == ("b1", "adi+dsfm", [])
    assert event["context"] == {"hour": "20", "n": 3}
    assert [(one["ad_id"], one["p_click"]) for one in event["ads"]] == [(one["ad_id"], one["p_click"]) for one in answer["ads"]]
    assert eventually(lambda: served.metric("mdrec_events_total", type="exposure", domain="search", outcome="accepted")) == 1


def test_sampled_requests_leave_a_record(world: World, settings: Settings) -> None:
    with running(settings.model_copy(update={"record_share": 1.0})) as served:
        served.recommend(request_id="sampled")
        record = eventually(lambda: (found := served.client.get("/v1/requests/sampled")).status_code == 200 and found.json())
    assert len(record["candidates"]) == world.ads


def test_before_any_bundle_the_gateway_says_so(settings: Settings) -> None:
    with running(settings) as served:
        answer = served.client.post("/v1/recommend", json={"user_id": "u", "domain": "feed"})
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        assert served.client.get("/readyz").status_code == 503
        assert served.client.get("/livez").status_code == 200


def test_the_routes_behind_the_edge_answer_as_it_does(world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand there for the OpenAPI document, and answer where the edge knows no path of theirs."""

    class Blind(Edge):
        def __init__(self, app: Any, metrics: Any, max_body_bytes: int, hot: Any) -> None:
            super().__init__(app, metrics, max_body_bytes, {})

    bodies = {
        "/v1/recommend": {"user_id": "u1", "domain": "feed", "k": 3, "request_id": "r"},
        "/v1/score": {"user_id": "u1", "domain": "feed", "ad_ids": ["a1", "a2", "no"], "request_id": "r"},
        "/v1/recommend?bad": {"user_id": "u1", "domain": "nowhere"},
    }
    answers = []
    for edge in (Edge, Blind):
        monkeypatch.setattr("server.app.Edge", edge)
        with running(settings) as served:
            found = [served.client.post(path, json=body) for path, body in bodies.items()]
        answers.append([(one.status_code, one.headers["content-type"], {**one.json(), "timings_ms": 0}) for one in found])
    assert answers[0] == answers[1] and [status for status, *_ in answers[0]] == [200, 200, 422]
