"""Operators' API: only with the token, never over somebody else's change, always on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.settings import Settings
from tests.server.conftest import TOKEN
from tests.server.live import Running, eventually, running
from tests.server.test_bad_input import problem
from tests.server.worlds import World

AUTH = {"Authorization": f"Bearer {TOKEN}"}
DEFINITIONS = {
    "ranker": {"rules": [{"key": "x", "variations": [{"recipe": "adi+dsfm"}, {"recipe": "adi+other"}], "coverage": 0.5}]}
}
ROUTES = [
    ("GET", "/admin/v1/experiments"),
    ("PUT", "/admin/v1/experiments"),
    ("POST", "/admin/v1/experiments/x/ramp"),
    ("POST", "/admin/v1/experiments/x/pause"),
    ("POST", "/admin/v1/experiments/x/promote"),
    ("POST", "/admin/v1/experiments/x/revert"),
    ("PUT", "/admin/v1/kill-switch"),
    ("GET", "/admin/v1/experiments/x/report"),
    ("GET", "/admin/v1/me"),
    ("GET", "/admin/v1/nights"),
    ("GET", "/admin/v1/bundles"),
    ("GET", "/admin/v1/health/domains"),
    ("GET", "/admin/v1/health/events"),
    ("GET", "/admin/v1/drift"),
    ("GET", "/admin/v1/canaries"),
    ("PUT", "/admin/v1/canaries/x"),
    ("GET", "/admin/v1/shadows"),
    ("PUT", "/admin/v1/shadows/x"),
    ("DELETE", "/admin/v1/shadows/x"),
    ("GET", "/admin/v1/audit"),
    ("GET", "/admin/v1/aliases"),
    ("PUT", "/admin/v1/aliases/adi+dsfm"),
    ("POST", "/admin/v1/aliases/adi+dsfm/rollback"),
    ("PUT", "/admin/v1/champion"),
    ("GET", "/admin/v1/domains/feed/ads"),
    ("PATCH", "/admin/v1/domains/feed/ads"),
    ("DELETE", "/admin/v1/domains/feed/ads"),
    ("GET", "/admin/v1/domains/feed/added-ads"),
    ("POST", "/admin/v1/domains/feed/added-ads"),
    ("DELETE", "/admin/v1/domains/feed/added-ads"),
]


def call(served: Running, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    return served.client.request(method, f"/admin/v1/{path}", json=body, headers={**AUTH, **headers})


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_without_the_token_nothing_is_possible(shared: Running, method: str, path: str, header: dict[str, str]) -> None:
    body = {"bundle_id": "b1", "recipe": "adi+dsfm"}
    answer = shared.client.request(method, path, headers=header, json=body if method != "GET" else None)
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_without_a_configured_token_admin_is_closed(world: World, settings: Settings) -> None:
    with running(settings.model_copy(update={"operator_token": None})) as served:
        answer = served.client.get("/admin/v1/experiments", headers=AUTH)
        assert "MDREC_OPERATOR_TOKEN" in problem(answer, 403)["detail"]


def test_experiments_are_written_against_the_version_that_was_read(served: Running) -> None:
    first = call(served, "GET", "experiments")
    assert (first.headers["etag"], first.json()["version"]) == ('"0"', 0)
    problem(call(served, "PUT", "experiments", DEFINITIONS), 428)
    written = call(served, "PUT", "experiments", DEFINITIONS, **{"If-Match": '"0"', "X-Operator": "ada", "X-Why": "try"})
    assert (written.status_code, written.headers["etag"]) == (200, '"1"')
    problem(call(served, "PUT", "experiments", DEFINITIONS, **{"If-Match": '"0"'}), 412)
    problem(call(served, "PUT", "experiments", DEFINITIONS, **{"If-Match": "soon"}), 422)
    problem(call(served, "PUT", "experiments", {"ranker": {"rules": [{"weigths": [1]}]}}, **{"If-Match": '"1"'}), 422)
    assert call(served, "GET", "experiments").json()["definitions"]["features"].keys() == {"ranker"}
    assert served.gateway.experiments.version == 1
    (change,) = call(served, "GET", "audit").json()
    assert (change["who"], change["why"], change["version"]) == ("ada", "try", 1)


def test_aliases_move_roll_back_and_are_on_record(home: Path, served: Running) -> None:
    World(bundle_id="b2").build(home, alias=False)
    moved = call(
        served, "PUT", "aliases/adi+dsfm", {"bundle_id": "b2", "why": "fresher"}, **{"If-Match": '"b1"', "X-Operator": "ada"}
    )
    assert moved.json() == {"recipe": "adi+dsfm", "bundle_id": "b2", "previous": "b1"}
    eventually(lambda: served.recommend()["bundle_id"] == "b2")
    problem(call(served, "PUT", "aliases/adi+dsfm", {"bundle_id": "b1"}, **{"If-Match": '"b1"'}), 412)
    problem(call(served, "PUT", "aliases/adi+dsfm", {"bundle_id": "nowhere"}), 422)
    assert call(served, "POST", "aliases/adi+dsfm/rollback").json()["bundle_id"] == "b1"
    eventually(lambda: served.recommend()["bundle_id"] == "b1")
    listed = call(served, "GET", "aliases").json()
    assert listed == {"champion": "adi+dsfm", "aliases": [{"recipe": "adi+dsfm", "bundle_id": "b1", "previous": "b2"}]}
    call(served, "PUT", "experiments", DEFINITIONS, **{"If-Match": '"0"'})
    call(served, "PUT", "aliases/adi+dsfm", {"bundle_id": "b2"})
    changes = call(served, "GET", "audit").json()
    assert [(one["version"], "aliases.adi+dsfm" in one["diff"]) for one in changes] == [
        (1, True),
        (1, False),
        (0, True),
        (0, True),
    ]
    assert changes[-1]["who"] == "ada"
    assert changes[-1]["diff"] == {"aliases.adi+dsfm": ["b1", "b2"]}


def test_another_champion_is_crowned(home: Path, served: Running) -> None:
    World(bundle_id="b2", recipe="adi+other").build(home)
    problem(call(served, "PUT", "champion", {"recipe": "nobody"}), 422)
    assert call(served, "PUT", "champion", {"recipe": "adi+other"}).status_code == 200
    eventually(lambda: served.recommend()["bundle_id"] == "b2")
