"""Every bad input gets its own status and a problem document that names the field; every legal id survives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from server import features
from tests.server.live import Running

RECOMMEND = {"user_id": "u1", "domain": "feed"}
SCORE = {"user_id": "u1", "domain": "feed", "ad_ids": ["a1"]}

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/recommend", {"domain": "feed"}, "user_id"),
    ("/v1/recommend", {"user_id": "u"}, "domain"),
    ("/v1/recommend", {**RECOMMEND, "domain": "nowhere"}, "domain"),
    ("/v1/recommend", {**RECOMMEND, "user_id": ""}, "user_id"),
    ("/v1/recommend", {**RECOMMEND, "user_id": 5}, "user_id"),
    ("/v1/recommend", {**RECOMMEND, "user_id": None}, "user_id"),
    ("/v1/recommend", {**RECOMMEND, "user_id": "é" * 129}, "user_id"),
    ("/v1/recommend", {**RECOMMEND, "request_id": "x" * 257}, "request_id"),
    ("/v1/recommend", {**RECOMMEND, "k": 0}, "k"),
    ("/v1/recommend", {**RECOMMEND, "k": -1}, "k"),
    ("/v1/recommend", {**RECOMMEND, "k": 501}, "k"),
    ("/v1/recommend", {**RECOMMEND, "k": "10"}, "k"),
    ("/v1/recommend", {**RECOMMEND, "k": 1.5}, "k"),
    ("/v1/recommend", {**RECOMMEND, "context": {str(n): "x" for n in range(65)}}, "context"),
    ("/v1/recommend", {**RECOMMEND, "context": ["hour"]}, "context"),
    ("/v1/recommend", {**RECOMMEND, "context": {"hour": ["20"]}}, "context.hour"),
    ("/v1/recommend", {**RECOMMEND, "context": {"temperature": "warm"}}, "context"),
    ("/v1/recommend", {**RECOMMEND, "context": {"temperature": 10**400}}, "context"),
    ("/v1/recommend", {**RECOMMEND, "exclude_ad_ids": "a1"}, "exclude_ad_ids"),
    ("/v1/recommend", {**RECOMMEND, "exclude_ad_ids": [""]}, "exclude_ad_ids.0"),
    ("/v1/recommend", {**RECOMMEND, "exclude_ad_ids": ["a"] * 2001}, "exclude_ad_ids"),
    ("/v1/recommend", {**RECOMMEND, "deadline_ms": 0}, "deadline_ms"),
    ("/v1/recommend", {**RECOMMEND, "deadline_ms": -5}, "deadline_ms"),
    ("/v1/recommend", {**RECOMMEND, "explain": "yes"}, "explain"),
    ("/v1/recommend", {**RECOMMEND, "usr": 1}, "usr"),
    ("/v1/score", {**RECOMMEND}, "ad_ids"),
    ("/v1/score", {**SCORE, "ad_ids": []}, "ad_ids"),
    ("/v1/score", {**SCORE, "ad_ids": ["a"] * 2001}, "ad_ids"),
    ("/v1/score", {**SCORE, "ad_ids": ["a", 7]}, "ad_ids.1"),
    ("/v1/score", {**SCORE, "ad_ids": ["a", "x" * 257]}, "ad_ids.1"),
    ("/v1/score", {**SCORE, "domain": "FEED"}, "domain"),
    ("/v1/feedback", {}, "events"),
    ("/v1/feedback", {"events": []}, "events"),
    ("/v1/feedback", {"events": "x"}, "events"),
    ("/v1/feedback", {"events": [{}] * 1001}, "events"),
]


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance"} <= body.keys()
    return body


@pytest.mark.parametrize(("path", "body", "field"), CASES, ids=lambda value: str(value)[:60])
def test_bad_input_is_422_and_names_the_field(shared: Running, path: str, body: dict[str, Any], field: str) -> None:
    found = problem(shared.client.post(path, json=body), 422)
    named = [one["field"] for one in found["errors"]]
    assert any(one == field or one.startswith(f"{field}.") for one in named), found
    assert found["instance"] == path


def test_an_unknown_domain_names_the_known_ones(shared: Running) -> None:
    found = problem(shared.client.post("/v1/recommend", json={**RECOMMEND, "domain": "nowhere"}), 422)
    assert found["known"] == ["feed", "search", "video", "mail"]
    assert "feed, search, video, mail" in found["detail"]


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/score", "/v1/feedback"])
@pytest.mark.parametrize("body", [b"", b"{", b'{"user_id": "\\ud800"}', b"\xff\xfe", b'{"user_id": "u"} trailing'])
def test_malformed_json_is_400(shared: Running, path: str, body: bytes) -> None:
    problem(shared.client.post(path, content=body), 400)


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"'])
def test_json_of_another_shape_is_422(shared: Running, body: bytes) -> None:
    problem(shared.client.post("/v1/recommend", content=body), 422)


def test_unknown_paths_and_methods_are_problems_too(shared: Running) -> None:
    assert "/nowhere" in problem(shared.client.get("/nowhere"), 404)["detail"]
    answer = shared.client.get("/v1/recommend")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_bodies_over_the_limit_are_413(shared: Running) -> None:
    large = json.dumps({**RECOMMEND, "context": {"x": "y" * (1 << 20)}}).encode()
    problem(shared.client.post("/v1/recommend", content=large), 413)

    def chunks():
        for at in range(0, len(large), 1 << 16):
            yield large[at : at + (1 << 16)]

    problem(shared.client.post("/v1/recommend", content=chunks()), 413)
    assert shared.recommend()["degraded"] == []


def test_a_body_just_under_the_limit_is_read(shared: Running) -> None:
    text = "y" * ((1 << 20) - 200)
    assert shared.recommend(context={"x": text})["degraded"] == []


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64).filter(lambda one: len(one.encode()) <= 256)


@given(user=IDS, ad=IDS, request_id=IDS, key=IDS, value=IDS)
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_unicode_is_a_legal_id_and_comes_back(
    shared: Running, user: str, ad: str, request_id: str, key: str, value: str
) -> None:
    answer = shared.recommend(user, "feed", k=1, exclude_ad_ids=[ad], request_id=request_id, context={key: value})
    assert answer["request_id"] == request_id
    scored = shared.client.post("/v1/score", json={**SCORE, "user_id": user, "ad_ids": [ad]}).json()
    if ad not in {f"a{row}" for row in range(12)}:
        assert scored["unknown_ad_ids"] == [ad]


@pytest.mark.parametrize("hostile", ["_meta", "a:b", "{tag}", "*", "\x00", "../../etc", "u1\r\nGET x", "😀" * 64, "-1", "NaN"])
def test_hostile_ids_are_only_ids(shared: Running, hostile: str) -> None:
    answer = shared.recommend(hostile, "feed", k=1, request_id=hostile)
    assert (answer["request_id"], answer["degraded"]) == (hostile, [])


def test_contexts_that_python_takes_for_equal_are_encoded_each_in_its_own_way(shared: Running) -> None:
    """What was encoded before is found again by how it was written: 1, 1.0 and true are one key of a dict."""
    bundle = next(iter(shared.gateway.registry.live.bundles.values()))
    encoded = []
    for _ in range(2):
        for value in (1, True, "1", 1.0):
            encoded.append(features.encode_context(bundle, {"hour": value}))
    fresh = [bundle.schema.encode("context", {"hour": [value]}, 1) for value in (1, True, "1", 1.0)] * 2
    assert [one.codes.tolist() for one in encoded] == [one.codes.tolist() for one in fresh]
    assert encoded[0] is encoded[4]
    for number in range(features._CONTEXTS + 1):
        features.encode_context(bundle, {"page": str(number)})
    assert len(bundle.contexts) <= features._CONTEXTS
