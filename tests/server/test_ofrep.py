"""OFREP: its own client reads flags and arms, errors have the protocol's codes, and an unchanged answer is 304."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import redis
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from abtest.actions import kill
from abtest.experiments import ExperimentStore, parse_object
from tests.server.live import Running, eventually
from tests.server.test_experiments_routing import define, experiment

FLAGS = {
    **experiment("adi+other"),
    "banner": {"defaultValue": True},
    "colour": {
        "defaultValue": "grey",
        "rules": [{"id": "german", "force": "red", "condition": {"country": "de", "domain": "feed"}}],
    },
    "limit": {"defaultValue": 5},
    "ratio": {"defaultValue": 0.5},
    "off": {"defaultValue": False, "active": False},
    "own": {"defaultValue": None},
    "gated": {"rules": [{"force": 1, "parentConditions": [{"id": "off", "condition": {"value": True}, "gate": True}]}]},
    "loop": {"rules": [{"force": 1, "parentConditions": [{"id": "loop", "condition": {"value": 1}}]}]},
}


@pytest.fixture
def flagged(served: Running, store: redis.Redis) -> Running:
    define(served, store, FLAGS)
    return served


@pytest.fixture
def client(flagged: Running) -> OpenFeatureClient:
    api.set_provider(OFREPProvider(flagged.url))
    return api.get_client()


def ask(served: Running, path: str, context: Any, **headers: str) -> httpx.Response:
    return served.client.post(f"/ofrep/v1/evaluate/flags{path}", json={"context": context}, headers=headers)


def test_an_openfeature_client_reads_flags_of_every_type(client: OpenFeatureClient) -> None:
    german = EvaluationContext("u1", {"country": "de", "domain": "feed"})
    french = EvaluationContext("u1", {"country": "fr", "domain": "feed"})
    banner = client.get_boolean_details("banner", False, german)
    assert (banner.value, banner.reason, banner.variant) == (True, "STATIC", "defaultValue")
    red = client.get_string_details("colour", "blue", german)
    assert (red.value, red.reason, red.variant) == ("red", "TARGETING_MATCH", "german")
    assert client.get_string_details("colour", "blue", french).reason == "UNKNOWN"
    assert client.get_string_value("colour", "blue", french) == "grey"
    assert (client.get_integer_value("limit", 1, french), client.get_float_value("ratio", 1.0, french)) == (5, 0.5)
    assert client.get_boolean_details("off", True, french).reason == "DISABLED"
    assert client.get_string_value("own", "the code's", french) == "the code's"
    assert client.get_integer_details("gated", 7, french).value == 7


def test_an_openfeature_client_reads_the_arm_that_the_gateway_serves(flagged: Running, client: OpenFeatureClient) -> None:
    for user in ("u1", "u2", "u3", "u4"):
        found = client.get_object_details("ranker", {}, EvaluationContext(user, {"domain": "search"}))
        (arm,) = flagged.recommend(user)["arms"]
        assert (found.variant, found.reason, found.flag_metadata["experiment"]) == (arm["arm"], "SPLIT", "ranker-test")
        assert found.value == {"recipe": arm["recipe"]}


def test_an_openfeature_client_is_told_what_is_wrong(client: OpenFeatureClient) -> None:
    user = EvaluationContext("u1")
    wrong = {
        "FLAG_NOT_FOUND": client.get_boolean_details("nothing", True, user),
        "TARGETING_KEY_MISSING": client.get_boolean_details("banner", True, EvaluationContext(None, {"domain": "feed"})),
        "INVALID_CONTEXT": client.get_boolean_details("banner", True, EvaluationContext("u" * 257)),
        "GENERAL": client.get_integer_details("loop", 1, user),
        "TYPE_MISMATCH": client.get_string_details("banner", "x", user),
    }
    assert {name: found.error_code.value for name, found in wrong.items() if found.error_code} == {name: name for name in wrong}


@pytest.mark.parametrize("path", ["", "/banner"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "PARSE_ERROR"),
        (b"\xff", "PARSE_ERROR"),
        (b"[" * 100_000, "PARSE_ERROR"),
        (b"[]", "INVALID_CONTEXT"),
        (b'{"context": 3}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": 3}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": ""}}', "TARGETING_KEY_MISSING"),
    ],
)
def test_a_bad_request_has_the_protocols_code(shared: Running, path: str, body: bytes, code: str) -> None:
    answer = shared.client.post(f"/ofrep/v1/evaluate/flags{path}", content=body)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, code)
    assert answer.json().get("key") == (path[1:] or None)
    assert answer.headers["content-type"] == "application/json"


def test_all_flags_come_with_an_etag_and_are_304_until_something_changes(flagged: Running, store: redis.Redis) -> None:
    context = {"targetingKey": "u1", "domain": "feed"}
    first = ask(flagged, "", context)
    flags = {one["key"]: one for one in first.json()["flags"]}
    assert flags.keys() == FLAGS.keys()
    assert flags["loop"]["errorCode"] == "GENERAL" and "value" not in flags["own"]
    assert flags["ranker"] == ask(flagged, "/ranker", context).json()
    etag = first.headers["etag"]
    same = ask(flagged, "", context, **{"If-None-Match": f'"other", {etag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    german = ask(flagged, "", {**context, "country": "de"}, **{"If-None-Match": etag})
    assert german.status_code == 200 and german.headers["etag"] != etag
    ExperimentStore(store).change(kill, who="test")
    eventually(lambda: flagged.gateway.experiments.version == 2)
    after = ask(flagged, "", context, **{"If-None-Match": etag})
    flags = {one["key"]: one for one in after.json()["flags"]}
    assert {key: one["reason"] for key, one in flags.items()} == dict.fromkeys(FLAGS, "DISABLED")
    assert "value" not in flags["ranker"] and flags["colour"]["value"] == "grey"


def test_a_flag_may_have_any_name(served: Running, store: redis.Redis) -> None:
    ExperimentStore(store).write(parse_object({"a/b c": {"defaultValue": 1}}), who="test", expected_version=0)
    eventually(lambda: served.gateway.experiments.version == 1)
    assert ask(served, "/a%2Fb%20c", {"targetingKey": "u"}).json()["value"] == 1
