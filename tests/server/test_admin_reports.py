"""The latest report over HTTP: whole or not at all, with its age, and polled without being sent again."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from abtest.experiments import ExperimentStore
from abtest.report_models import report_path
from deploy.experiments_report import current_report
from tests.abtest.test_assign import ranker
from tests.abtest.test_report_file import KEY, tell
from tests.server.live import Running
from tests.server.test_admin import call
from tests.server.test_bad_input import problem


@pytest.fixture
def reported(served: Running, store: redis.Redis, home: Path) -> Running:
    ExperimentStore(store).write(ranker(), who="ada", expected_version=0)
    tell(store, home, 0)
    tell(store, home, 1)
    current_report(home, store, KEY)
    return served


def test_the_latest_report_is_served_with_its_age(reported: Running, store: redis.Redis, home: Path) -> None:
    answer = call(reported, "GET", f"experiments/{KEY}/report")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["experiment"], body["start"], body["control"]) == (KEY, "2026-11-20", "control")
    assert 0 <= body["age_seconds"] < 600
    assert [one["domain"] for one in body["slices"]] == [None, "feed", "search"]
    assert {one["day"] for one in body["series"]} == {"2026-11-20", "2026-11-21"}
    tag = answer.headers["etag"]
    again = call(reported, "GET", f"experiments/{KEY}/report", **{"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    tell(store, home, 2)
    current_report(home, store, KEY)
    assert call(reported, "GET", f"experiments/{KEY}/report", **{"If-None-Match": tag}).status_code == 200


def test_what_is_missing_or_damaged_says_how_to_make_it(reported: Running, store: redis.Redis, home: Path) -> None:
    assert KEY in problem(call(reported, "GET", "experiments/nothing/report"), 404)["known"]
    path = report_path(home, KEY)
    path.write_text('{"experiment":')
    assert f"mdrec ab report {KEY}" in problem(call(reported, "GET", f"experiments/{KEY}/report"), 500)["detail"]
    path.unlink()
    assert f"mdrec ab report {KEY}" in problem(call(reported, "GET", f"experiments/{KEY}/report"), 404)["detail"]


def test_me_is_the_operator_of_the_token(shared: Running) -> None:
    assert call(shared, "GET", "me", **{"X-Operator": "ada"}).json() == {"operator": "ada"}


def test_the_page_s_endpoints_are_typed_in_the_openapi_document(shared: Running) -> None:
    document = shared.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    models = {"experiments/{key}/report": "ReportAnswer", "me": "Me", "nights": "NightsAnswer", "bundles": "StoredBundles"}
    models |= {"health/domains": "DomainsHealth", "health/events": "EventsHealth", "drift": "DriftAnswer"}
    for path, model in models.items():
        answer = document["paths"][f"/admin/v1/{path}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer == {"$ref": f"#/components/schemas/{model}"} and model in schemas
