"""The ledger's part in a canary: clicks and revenue of its two sides are judged, and what is held on disk while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from abtest.canary import Canary, rule_of
from abtest.canary_watch import Watcher
from abtest.definitions import Definitions, Feature
from abtest.experiments import ExperimentStore
from abtest.guardrails import Guardrail
from abtest.shadow import Shadow
from contracts.aliases import Aliases
from contracts.events import ArmRecord, Exposure, Feedback
from deploy.canaries import judge_canaries
from deploy.cli import app
from deploy.close_day import drain
from deploy.retention import retire
from tests.abtest.world import exposure, log, outcome
from tests.server.worlds import World


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as one:
        yield one


def begin(client: redis.Redis, **fields: Canary) -> None:
    rule = rule_of("next", "feed", "adi+dsfm", "b2", 0.5, Canary(users=200))
    shadows = {"s": Shadow(domain="feed", recipe="adi+dsfm", bundle="b3", share=0.1)}
    definitions = Definitions(features={"next": Feature(rules=[rule])}, shadows=shadows)
    ExperimentStore(client).write(definitions, who="ada", expected_version=0)


def traffic(canary_rate: float, users: int = 800) -> list[Exposure | Feedback]:
    """Half of the users have the canary; three ads are seen in each of five answers, and clicked at .3, or at canary_rate."""
    random = np.random.default_rng(0)
    events: list[Exposure | Feedback] = []
    for number in range(users):
        arm = "canary" if number % 2 else "stable"
        for request in range(5):
            name, user = f"r{number}.{request}", f"u{number}"
            arms = [ArmRecord(experiment="next", arm=arm, recipe="adi+dsfm")]
            events.append(exposure(name, user, arms=arms))
            for ad in range(3):
                click = random.random() < (canary_rate if arm == "canary" else 0.3)
                events.append(outcome(f"{name}.{ad}", "click" if click else "impression", name, user, f"a{ad}"))
    return events


@pytest.mark.parametrize(
    ("rate", "verdicts", "action"), [(0.3, {"undecided", "passes"}, "go on"), (0.1, {"breached"}, "roll back")]
)
def test_clicks_that_fall_roll_it_back(home: Path, client: redis.Redis, rate: float, verdicts: set[str], action: str) -> None:
    begin(client)
    log(client, traffic(rate))
    drain(client, home)
    said: list[str] = []
    judge_canaries(home, client, said.append)
    (standing,) = Watcher(client).look()
    assert [one.metric for one in standing.business] == ["ctr", "revenue_per_user"]
    assert {one.verdict for one in standing.business} <= verdicts
    assert standing.verdict.action == action
    assert said[0].startswith("canary next: ctr ")
    why = ExperimentStore(client).history(1)[0].why
    assert ("rolled back in feed: ctr is worse by more than the margin of 5.0%" in why) == (action == "roll back")


def test_without_outcomes_it_says_so_and_goes_on(home: Path, client: redis.Redis) -> None:
    begin(client)
    drain(client, home)
    judge_canaries(home, client, lambda _: None)
    (standing,) = Watcher(client).look()
    assert {one.verdict for one in standing.business} == {"not computable"}
    assert standing.verdict.action == "go on"


def test_the_collector_judges_after_its_round(
    home: Path, client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    begin(client)
    log(client, traffic(0.3, users=20))
    result = CliRunner().invoke(app, ["collect", "--once"])
    assert result.exit_code == 0 and "canary next: ctr" in result.output, result.output


def test_bundles_of_canaries_and_shadows_are_not_retired(home: Path, client: redis.Redis) -> None:
    for number in range(1, 9):
        World(bundle_id=f"b{number}").build(home)
    begin(client)
    retire(home, client, lambda _: None)
    assert sorted(Aliases(home).bundle_ids()) == ["b2", "b3", "b6", "b7", "b8"]
    Watcher(client).note_business("next", [Guardrail("ctr", 0.05, "breached", None, "ctr fell")])
    Watcher(client).look()
    retire(home, client, lambda _: None)
    assert sorted(Aliases(home).bundle_ids()) == ["b3", "b6", "b7", "b8"], "a canary that ended holds nothing"
