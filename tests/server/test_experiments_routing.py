"""Arms: the recipe of the arm answers, the answer names it, and an arm without a bundle falls to the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from abtest.experiments import ExperimentStore, parse_object
from server.settings import Settings
from tests.server.live import Running, eventually, running, stream
from tests.server.worlds import World


def experiment(recipe: str, **fields: Any) -> dict[str, Any]:
    rule = {"key": "ranker-test", "variations": [{"recipe": "adi+dsfm"}, {"recipe": recipe}], "weights": [0.5, 0.5]}
    return {"ranker": {"rules": [{**rule, "meta": [{"key": "control"}, {"key": "challenger"}], "hashVersion": 2, **fields}]}}


@pytest.fixture
def two_recipes(home: Path, settings: Settings):
    World().build(home)
    World(bundle_id="b2", recipe="adi+other", bias=1.0).build(home)
    with running(settings) as served:
        yield served


def define(served: Running, store: redis.Redis, definitions: dict[str, Any], version: int = 0) -> None:
    ExperimentStore(store).write(parse_object(definitions), who="test", expected_version=version)
    eventually(lambda: served.gateway.experiments.version == version + 1)


def test_each_arms_recipe_answers_its_users(two_recipes: Running, store: redis.Redis) -> None:
    served = two_recipes
    assert served.recommend()["arms"] == []
    define(served, store, experiment("adi+other"))
    seen = set()
    for number in range(40):
        answer = served.recommend(f"u{number}", request_id=f"r{number}")
        (arm,) = answer["arms"]
        assert arm["experiment"] == "ranker-test"
        expected = {"control": ("adi+dsfm", "b1"), "challenger": ("adi+other", "b2")}[arm["arm"]]
        assert (arm["recipe"], answer["bundle_id"]) == expected
        again = served.client.post("/v1/score", json={"user_id": f"u{number}", "domain": "search", "ad_ids": ["a0"]}).json()
        assert (again["arms"], again["bundle_id"]) == (answer["arms"], answer["bundle_id"])
        seen.add(arm["arm"])
    assert seen == {"control", "challenger"}
    exposures = eventually(lambda: len(found := stream(store, "exposure")) == 41 and found)
    assert {(one["recipe"], one["bundle_id"], one["arms"][0]["arm"]) for one in exposures[1:]} == {
        ("adi+dsfm", "b1", "control"),
        ("adi+other", "b2", "challenger"),
    }
    control = served.metric("mdrec_exposures_total", experiment="ranker-test", arm="control", domain="search")
    challenger = served.metric("mdrec_exposures_total", experiment="ranker-test", arm="challenger", domain="search")
    assert control + challenger == 80


def test_a_recipe_without_a_bundle_falls_to_the_champion_in_its_arm(two_recipes: Running, store: redis.Redis) -> None:
    served = two_recipes
    define(served, store, experiment("adi+missing", weights=[0.0, 1.0]))
    answer = served.recommend()
    assert (answer["bundle_id"], answer["degraded"]) == ("b1", ["recipe"])
    assert answer["arms"] == [{"experiment": "ranker-test", "arm": "challenger", "recipe": "adi+missing"}]
    assert served.metric("mdrec_degraded_total", rung="recipe") == 1


def test_an_arm_may_change_parameters_alone(two_recipes: Running, store: redis.Redis) -> None:
    served = two_recipes
    arms = {"wide": {"rules": [{"key": "k", "variations": [{"params": {}}, {"params": {"retrieve_k": 3}}], "weights": [0, 1]}]}}
    define(served, store, arms)
    answer = served.recommend("u0", "feed", k=2, explain=True, request_id="narrow")
    assert (answer["arms"][0]["recipe"], answer["degraded"]) == ("adi+dsfm", [])
    assert len(served.client.get("/v1/requests/narrow").json()["candidates"]) == 3


def test_definitions_that_cannot_be_read_leave_the_known_ones_in_force(two_recipes: Running, store: redis.Redis) -> None:
    served = two_recipes
    define(served, store, experiment("adi+other", weights=[0.0, 1.0]))
    store.hset("exp:definitions", mapping={"version": 9, "body": "{"})
    eventually(lambda: served.metric("mdrec_background_errors_total", task="experiments"))
    assert served.recommend()["bundle_id"] == "b2"
