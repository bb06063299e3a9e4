"""Promotion over HTTP: the answer to every user changes, under the version that was read, and goes back."""

from __future__ import annotations

from tests.server.live import Running, eventually
from tests.server.test_admin_experiments import act, audit, define, served  # noqa: F401
from tests.server.test_bad_input import problem


def bundles(served: Running) -> set[str]:  # noqa: F811
    asked = [{"user_id": f"u{number}", "domain": "feed", "k": 1} for number in range(12)]
    return {served.client.post("/v1/recommend", json=one).json()["bundle_id"] for one in asked}


def test_everybody_gets_the_promoted_recipe_and_then_the_old_one(served: Running) -> None:  # noqa: F811
    define(served, coverage=1.0)
    assert bundles(served) == {"b1", "b2"}
    for body, version, status in (
        ({}, 1, 422),
        ({"arm": "challenger"}, None, 428),
        ({"arm": "challenger"}, 7, 412),
        ({"arm": "no"}, 1, 422),
    ):
        problem(act(served, "promote", body, version), status)
    done = act(served, "promote", {"arm": "challenger", "why": "it won"}, version=1)
    assert (done.status_code, done.headers["etag"], done.json()["promotion"]["champion"]) == (200, '"2"', "adi+other")
    eventually(lambda: bundles(served) == {"b2"})
    assert (audit(served)[0]["diff"], audit(served)[0]["who"]) == ({"champion": ["adi+dsfm", "adi+other"]}, "ada")
    back = act(served, "revert", {"why": "complaints"}, version=2)
    assert (back.status_code, back.json()["experiments"][0]["status"]) == (200, "running")
    eventually(lambda: bundles(served) == {"b1", "b2"})
    problem(act(served, "revert", version=3), 422)
