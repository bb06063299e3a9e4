"""A change of experiments reaches every worker by being announced, and by looking where announcements do not arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from abtest.actions import kill
from abtest.experiments import ExperimentStore, parse_object
from server.settings import Settings
from tests.server.live import Running, eventually, running, workers
from tests.server.test_experiments_routing import experiment
from tests.server.worlds import World

HOURS = 3600.0  # between looks: whoever follows has heard
EVERYBODY_IN = experiment("adi+other", weights=[0.0, 1.0])


@pytest.fixture
def recipes(home: Path) -> Path:
    World().build(home)
    World(bundle_id="b2", recipe="adi+other", bias=1.0).build(home)
    return home


@pytest.fixture
def two_workers(recipes: Path, settings: Settings) -> Iterator[tuple[Running, Running]]:
    patient = settings.model_copy(update={"alias_poll_seconds": HOURS})
    with running(patient) as one, running(patient) as other:
        yield one, other


def test_every_worker_hears_of_a_change(two_workers: tuple[Running, Running], store: redis.Redis) -> None:
    eventually(lambda: store.pubsub_numsub("exp:changed")[0][1] == 2)
    definitions = ExperimentStore(store)
    definitions.write(parse_object(EVERYBODY_IN), who="test", expected_version=0)
    for worker in two_workers:
        eventually(lambda worker=worker: worker.recommend()["bundle_id"] == "b2")
    definitions.change(kill, who="test")
    for worker in two_workers:
        eventually(lambda worker=worker: worker.gateway.experiments.version == 2)
        answers = [worker.recommend(f"u{number}") for number in range(20)]
        assert {(one["bundle_id"], len(one["arms"])) for one in answers} == {("b1", 0)}
        assert worker.metric("mdrec_exposures_total", experiment="ranker-test") >= 1
    definitions.change(lambda now: kill(now, on=False), who="test")
    for worker in two_workers:
        eventually(lambda worker=worker: worker.recommend()["bundle_id"] == "b2")


def test_a_worker_whose_channel_broke_looks_by_itself_and_hears_again(
    recipes: Path, settings: Settings, store: redis.Redis
) -> None:
    with running(settings) as worker:
        eventually(lambda: store.pubsub_numsub("exp:changed")[0][1] == 1)
        store.client_kill_filter(_type="pubsub")
        ExperimentStore(store).write(parse_object(EVERYBODY_IN), who="test", expected_version=0)
        eventually(lambda: worker.recommend()["bundle_id"] == "b2")
        eventually(lambda: store.pubsub_numsub("exp:changed")[0][1] == 1)


def test_the_workers_of_one_command_stop_experiments_together(recipes: Path, redis_url: str, store: redis.Redis) -> None:
    """Requests land on either process; every one of a long run after the switch is the champion's."""
    definitions = ExperimentStore(store)
    definitions.write(parse_object(EVERYBODY_IN), who="test", expected_version=0)
    with workers(recipes, redis_url, MDREC_ALIAS_POLL_SECONDS=str(HOURS)) as url:
        eventually(lambda: store.pubsub_numsub("exp:changed")[0][1] == 2)

        def champions() -> int:
            """Of 20 answers, each on a connection of its own."""
            bodies = [{"user_id": f"u{number}", "domain": "search"} for number in range(20)]
            return sum(httpx.post(f"{url}/v1/recommend", json=body).json()["bundle_id"] == "b1" for body in bodies)

        assert champions() == 0
        definitions.change(kill, who="test")
        eventually(lambda: champions() == 20)
        assert champions() == 20
