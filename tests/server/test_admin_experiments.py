"""Operators and experiments: every action versioned, checked, on record under the token's name, and rehearsed without effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr, ValidationError

from server.settings import Settings
from tests.server.conftest import TOKEN
from tests.server.live import Running, running
from tests.server.test_bad_input import problem
from tests.server.test_experiments_routing import experiment
from tests.server.worlds import World

SLASHED = "ranker/test"


@pytest.fixture
def served(home: Path, settings: Settings) -> Iterator[Running]:
    World().build(home)
    World(bundle_id="b2", recipe="adi+other", bias=1.0).build(home)
    tokens = SecretStr("ada:first:secret, bob:second")
    with running(settings.model_copy(update={"operator_tokens": tokens})) as one:
        yield one


def call(
    served: Running, method: str, path: str, body: Any = None, token: str = "first:secret", **headers: str
) -> httpx.Response:
    auth = {"Authorization": f"Bearer {token}"}
    return served.client.request(method, f"/admin/v1/{path}", json=body, headers={**auth, **headers})


def act(served: Running, action: str, body: Any = None, version: int | None = None, **given: str) -> httpx.Response:
    match = {} if version is None else {"If-Match": f'"{version}"'}
    return call(served, "POST", f"experiments/{SLASHED}/{action}", body or {}, **match, **given)


def define(served: Running, **fields: Any) -> None:
    body = experiment("adi+other", **{"key": SLASHED, "coverage": 0.5, **fields})
    assert call(served, "PUT", "experiments", body, **{"If-Match": '"0"'}).status_code == 200


def audit(served: Running) -> list[dict[str, Any]]:
    return call(served, "GET", "audit").json()


def test_the_record_has_the_name_of_the_token_and_not_of_the_header(served: Running) -> None:
    define(served)
    act(served, "pause", version=1, token="second", **{"X-Operator": "mallory"})
    act(served, "resume", version=2, token=TOKEN, **{"X-Operator": "carol"})
    call(served, "PUT", "champion", {"recipe": "adi+other"}, token="second")
    call(served, "PATCH", "domains/feed/ads", {"changes": [{"ad_id": "a1", "paused": True}]}, token="second")
    assert [one["who"] for one in audit(served)] == ["bob", "bob", "carol", "bob", "ada"]
    for wrong in ("first", "ada:first:secret", "secret", "none"):
        problem(call(served, "GET", "audit", token=wrong), 401)


@pytest.mark.parametrize("tokens", ["ada", "ada:", ":x", "ada:x,", "ada:x,ada:y", "ada:x,bob:x"])
def test_tokens_that_cannot_be_told_apart_are_refused_without_being_shown(tokens: str) -> None:
    with pytest.raises(ValidationError, match="name:token") as caught:
        Settings(operator_tokens=tokens)  # type: ignore[arg-type]
    assert tokens not in str(caught.value).replace("`name:token,name:token`", "")


def test_an_experiment_runs_from_draft_to_released_arm(served: Running) -> None:
    define(served, status="draft")
    assert served.recommend()["arms"] == []
    assert act(served, "start", version=1).json()["experiments"][0]["status"] == "running"
    problem(act(served, "start", version=2), 422)
    ramped = act(served, "ramp", {"coverage": 1, "why": "looks fine"}, version=2)
    assert ramped.headers["etag"] == '"3"'
    assert [one["share"] for one in ramped.json()["experiments"][0]["arms"]] == [0.5, 0.5]
    assert ramped.json()["diff"] == {"features.ranker.rules.0.coverage": [0.5, 1.0]}
    assert len(served.recommend()["arms"]) == 1
    problem(act(served, "ramp", {"coverage": 0.2}, version=3), 422)  # ramping only adds
    problem(act(served, "stop", {"release": "nobody"}, version=3), 422)
    stopped = act(served, "stop", {"release": "challenger"}, version=3).json()
    assert (stopped["experiments"][0]["status"], stopped["experiments"][0]["released"]) == ("stopped", "challenger")
    for user in range(8):
        answer = served.recommend(f"u{user}")
        assert (answer["bundle_id"], answer["arms"]) == ("b2", [])
    record = audit(served)[1]
    assert (record["why"], record["diff"]) == ("looks fine", ramped.json()["diff"])


def test_pausing_brings_the_champion_and_resuming_the_same_arms(served: Running) -> None:
    define(served, coverage=1)
    before = [served.recommend(f"u{user}")["arms"] for user in range(8)]
    assert act(served, "pause").json()["experiments"][0]["status"] == "paused"  # an emergency needs no version
    assert {served.recommend(f"u{user}")["bundle_id"] for user in range(8)} == {"b1"}
    act(served, "resume", version=2)
    assert [served.recommend(f"u{user}")["arms"] for user in range(8)] == before


def test_writes_name_the_version_they_were_made_from(served: Running) -> None:
    define(served)
    for action, body in (("ramp", {"coverage": 1}), ("resume", {}), ("stop", {}), ("start", {})):
        problem(act(served, action, body), 428)
        problem(act(served, action, body, version=7), 412)
    problem(act(served, "pause", version=7), 412)
    problem(call(served, "PUT", "kill-switch", {"on": True}, **{"If-Match": '"7"'}), 412)
    unknown = problem(call(served, "POST", "experiments/nobody/pause", {}), 404)
    assert unknown["known"] == [SLASHED]
    for body in ({}, {"coverage": 2}, {"coverage": 1, "shares": [0.5, 0.5]}):
        problem(act(served, "ramp", body, version=1), 422)
    assert len(audit(served)) == 1


def test_a_rehearsal_checks_and_shows_and_changes_nothing(served: Running, store: redis.Redis) -> None:
    define(served)
    body = experiment("adi+other", key=SLASHED, coverage=0.7)
    rehearsed = call(served, "PUT", "experiments?dry_run=true", body)
    assert rehearsed.json()["diff"] == {"features.ranker.rules.0.coverage": [0.5, 0.7]}
    assert (rehearsed.json()["version"], rehearsed.json()["dry_run"], "etag" in rehearsed.headers) == (2, True, False)
    moving = experiment("adi+other", key=SLASHED, weights=[0.9, 0.1])
    assert "would change arms" in problem(call(served, "PUT", "experiments?dry_run=true", moving), 422)["detail"]
    problem(call(served, "PUT", "experiments?dry_run=true", body, **{"If-Match": '"0"'}), 412)
    assert act(served, "ramp?dry_run=true", {"shares": [0.3, 0.3]}).json()["experiments"][0]["arms"][1]["share"] == 0.3
    call(served, "PUT", "kill-switch?dry_run=true", {"on": True})
    now = call(served, "GET", "experiments")
    assert (now.headers["etag"], now.json()["active"], len(audit(served))) == ('"1"', True, 1)


def test_a_write_of_definitions_leaves_the_kill_switch_alone(served: Running) -> None:
    define(served, coverage=1)
    assert call(served, "PUT", "kill-switch", {"on": True, "why": "fire"}).json()["active"] is False
    assert served.recommend()["arms"] == []
    body = experiment("adi+other", key=SLASHED, coverage=1)
    written = call(served, "PUT", "experiments", {"features": body}, **{"If-Match": '"2"'})
    assert (written.json()["version"], written.json()["active"]) == (3, False)
    assert call(served, "PUT", "kill-switch", {"on": False}).json()["active"] is True
    assert len(served.recommend()["arms"]) == 1
    assert [(one["why"], one["diff"].get("active")) for one in audit(served)] == [
        ("", [False, None]), ("", None), ("fire", [None, False]), ("", None),
    ]  # fmt: skip
