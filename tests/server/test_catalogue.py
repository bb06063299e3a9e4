"""What is served, whether, and the names that others rely on: domains, bundles, readiness, metrics, OpenAPI."""

from __future__ import annotations

from pathlib import Path

from contracts.manifest import Manifest
from server.settings import Settings
from tests.server.live import Running, running
from tests.server.worlds import DOMAINS, World


def test_domains_name_their_bundles(home: Path, settings: Settings) -> None:
    World().build(home)
    World(bundle_id="b2", recipe="adi", with_ranker=False, ads=20, kind="ivf_flat").build(home)
    with running(settings) as served:
        found = served.client.get("/v1/domains").json()["domains"]
    assert [one["name"] for one in found] == list(DOMAINS)
    assert found[0] == {
        "name": "feed",
        "ads": 12,
        "bundles": [
            {"recipe": "adi+dsfm", "bundle_id": "b1", "ads": 12, "index": "exact"},
            {"recipe": "adi", "bundle_id": "b2", "ads": 20, "index": "ivf_flat"},
        ],
    }


def test_bundles_are_listed_with_what_they_are(home: Path, settings: Settings) -> None:
    directory = World().build(home)
    World(bundle_id="b2", bias=1.0).build(home)
    with running(settings) as served:
        first, second = served.client.get("/v1/bundles").json()["bundles"]
    assert (first["bundle_id"], first["live"], first["champion"]) == ("b1", False, False)
    assert (second["bundle_id"], second["live"], second["champion"]) == ("b2", True, True)
    assert first["content_digest"] == Manifest.load(directory).content_digest


def test_readiness_says_what_is_loaded(shared: Running) -> None:
    body = shared.ready()
    loaded = body["recipes"]["adi+dsfm"]
    assert (body["status"], body["champion"], body["problems"], body["refused"]) == ("ready", "adi+dsfm", [], {})
    assert (loaded["bundle_id"], loaded["execution_providers"]) == ("b1", ["CPUExecutionProvider"])
    assert loaded["domains"]["mail"] == {"ads": 12, "index": "exact"}


def test_metrics_have_the_promised_names_and_no_user_or_ad(served: Running) -> None:
    served.recommend("somebody", request_id="secret-request")
    served.client.get("/nowhere/at/all")
    text = served.client.get("/metrics").text
    for name in (
        'mdrec_http_request_duration_seconds_bucket{le="0.001",route="/v1/recommend",status="200"}',
        'mdrec_http_request_duration_seconds_count{route="unmatched",status="404"} 1.0',
        'mdrec_stage_duration_seconds_count{domain="search",recipe="adi+dsfm",stage="retrieve"} 1.0',
        'mdrec_bundle_info{bundle_id="b1",recipe="adi+dsfm"} 1.0',
        "mdrec_queue_depth 0.0",
        "# TYPE mdrec_candidates_dropped_total counter",
        "# TYPE mdrec_degraded_total counter",
        "# TYPE mdrec_exposures_total counter",
        "# TYPE mdrec_events_total counter",
        "# TYPE mdrec_shed_total counter",
    ):
        assert name in text, name
    assert served.metric("mdrec_bundle_age_seconds") > 0
    assert "somebody" not in text
    assert "secret-request" not in text
    assert "/nowhere" not in text


def test_openapi_describes_what_is_sent(shared: Running) -> None:
    document = shared.client.get("/openapi.json").json()
    assert {"/v1/recommend", "/v1/score", "/v1/feedback", "/v1/domains", "/v1/bundles", "/livez", "/readyz", "/metrics"} <= set(
        document["paths"]
    )
    post = document["paths"]["/v1/recommend"]["post"]
    body = post["requestBody"]["content"]["application/json"]["schema"]
    asked = resolved(document, body)
    assert asked["required"] == ["user_id", "domain"]
    assert set(asked["properties"]) == {
        "user_id",
        "domain",
        "k",
        "context",
        "exclude_ad_ids",
        "request_id",
        "deadline_ms",
        "explain",
    }
    assert (asked["properties"]["k"]["minimum"], asked["properties"]["k"]["maximum"]) == (1, 500)
    answer = shared.recommend("u1", "feed", k=2)
    agrees(document, post["responses"]["200"]["content"]["application/json"]["schema"], answer)
    bad = shared.client.post("/v1/recommend", json={}).json()
    agrees(document, post["responses"]["422"]["content"]["application/problem+json"]["schema"], bad)
    unresolved = [one for one in references(document) if one.rsplit("/", 1)[1] not in document["components"]["schemas"]]
    assert unresolved == []


def resolved(document: dict, schema: dict) -> dict:
    return document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def agrees(document: dict, schema: dict, value: object) -> None:
    """Every member is described and every required one is there, all the way down."""
    schema = resolved(document, schema)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) <= value.keys() <= set(schema["properties"]), schema["title"]
        for name, inner in value.items():
            agrees(document, schema["properties"][name], inner)
    elif isinstance(value, list) and "items" in schema:
        for one in value:
            agrees(document, schema["items"], one)


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        return [one for key, value in node.items() for one in ([value] if key == "$ref" else references(value))]
    return [one for value in node for one in references(value)] if isinstance(node, list) else []


def test_docs_are_served(shared: Running) -> None:
    assert shared.client.get("/docs").status_code == 200
