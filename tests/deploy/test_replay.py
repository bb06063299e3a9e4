"""Replay: a recipe that never served is estimated from another's drawn slates, to what the law of clicks says of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from typer.testing import CliRunner

from abtest.estimate import Estimate
from abtest.experiments import ExperimentStore, parse_object
from abtest.explore import Explore
from abtest.stats import NotComputable
from contracts.errors import BadInput
from deploy.cli import app
from deploy.replay import replay
from server.bundle import Bundle
from server.settings import Settings
from tests.server.live import eventually, running, stream
from tests.server.worlds import World

MADE = datetime(2026, 11, 1, tzinfo=UTC)  # every World
ADS, PLACES = 8, 2
OURS = World(ads=ADS, bid_step=0.1)
THEIRS = World(bundle_id="b2", recipe="adi+other", ads=ADS, bid_step=0.5)
WILL_CLICK = np.linspace(0.1, 0.6, ADS)  # by ad, in the first place; half in the second


def scores(world: World) -> list[float]:
    """Of a stranger."""
    return [0.5 * world.bid(row) for row in range(ADS)]


def slates(users: int, explore: Explore, seed: int = 0, **fields: Any) -> pl.DataFrame:
    """As abtest.explored gives them: one request a user."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        drawn = explore.draw(scores(OURS), PLACES, f"{seed}-{user}")
        clicked = (rng.random(PLACES) < WILL_CLICK[drawn.chosen] / (1 + np.arange(PLACES))).astype(float)
        row = {
            "request_id": f"r{user}", "user_id": f"stranger{user}", "domain": "feed", "time": MADE + timedelta(hours=1 + user),
            "context": "{}", "excluded": [], "ad_id": [f"a{row}" for row in drawn.chosen],
            "propensity": drawn.propensities.tolist(), "clicked": clicked.tolist(), "revenue": (2.0 * clicked).tolist(),
        }  # fmt: skip
        rows.append({**row, **fields})
    return pl.DataFrame(rows)


def truth(explore: Explore) -> float:
    """Clicks an ad that the other recipe would show."""
    total = 0.0
    for slate in permutations(range(ADS), PLACES):
        chances = explore.chances(scores(THEIRS), slate)
        chance = float(np.prod(chances[range(PLACES), slate]))
        total += chance * sum(WILL_CLICK[ad] / (1 + place) for place, ad in enumerate(slate)) / PLACES
    return total


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Bundle, Bundle]:
    return Bundle(OURS.build(tmp_path)), Bundle(THEIRS.build(tmp_path))


def nothing(key: str) -> None:
    return None


def test_another_recipe_earns_what_the_law_says(bundles: tuple[Bundle, Bundle]) -> None:
    logged, evaluated = Explore(1.0, ADS), Explore(0.5, ADS)
    found = replay(slates(1_200, logged), bundles[1], nothing, evaluated, PLACES)
    assert (found.requests, found.domains, found.left_out) == (1_200, {"feed": 1_200}, {})
    for metric, scale in (("click_rate", 1), ("ecpm", 2_000)):
        one = found.metrics[metric]
        expected = scale * truth(evaluated)
        for estimate in (one.ips, one.snips, one.doubly_robust):
            assert isinstance(estimate, Estimate)
            assert estimate.low < expected < estimate.high
        assert isinstance(one.logged, Estimate) and one.logged.high < expected
        assert isinstance(one.mean_weight, Estimate) and one.mean_weight.low < 1 < one.mean_weight.high


def test_of_the_recipe_that_served_every_weight_is_one(bundles: tuple[Bundle, Bundle]) -> None:
    explore = Explore(0.7, 5)
    found = replay(slates(200, explore), bundles[0], nothing, explore, PLACES).metrics["click_rate"]
    assert isinstance(found.ips, Estimate) and isinstance(found.logged, Estimate)
    assert found.effective_users == pytest.approx(200, rel=1e-9)
    assert found.ips.value == pytest.approx(found.logged.value, rel=1e-6)


def test_only_the_first_places_count_and_shorter_answers_have_fewer(bundles: tuple[Bundle, Bundle]) -> None:
    explore = Explore(1.0, ADS)
    rows = slates(300, explore)
    one, three = (replay(rows, bundles[0], nothing, explore, places).metrics["click_rate"] for places in (1, 3))
    assert (one.decisions, three.decisions) == (300, 600)
    assert isinstance(one.ips, Estimate)
    assert one.ips.value == pytest.approx(rows["clicked"].list.get(0).mean(), rel=1e-6)


def test_requests_that_cannot_be_replayed_are_counted_by_reason(bundles: tuple[Bundle, Bundle]) -> None:
    explore = Explore(1.0, ADS)
    rows = pl.concat(
        [
            slates(3, explore),
            slates(2, explore, domain="radio"),
            slates(4, explore, time=MADE),
            slates(1, explore, context='{"temperature": "hot"}'),
        ]
    )
    found = replay(rows, bundles[1], nothing, explore)
    assert found.requests == 3
    unknown, garbled = "the recipe cannot answer: domain 'radio' is unknown", "the recipe cannot answer: context: "
    assert found.left_out.pop(unknown) == 2
    assert found.left_out.pop("before the bundle was made, which may have learnt from them") == 4
    ((reason, count),) = found.left_out.items()
    assert reason.startswith(garbled) and count == 1


def test_a_broken_propensity_or_a_recipe_without_a_ranker_gives_no_number(bundles: tuple[Bundle, Bundle], home: Path) -> None:
    explore = Explore(1.0, ADS)
    broken = replay(slates(3, explore, propensity=[0.5, None]), bundles[1], nothing, explore, PLACES).metrics["ecpm"]
    assert isinstance(broken.ips, NotComputable) and "3 of 6 logged propensities" in broken.ips.reason
    plain = Bundle(World(bundle_id="b3", with_ranker=False, ads=ADS).build(home))
    with pytest.raises(BadInput, match="no ranker"):
        replay(slates(3, explore), plain, nothing, explore)


def test_the_command_replays_what_a_gateway_drew(home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe that drew them: its rows in Redis, exclusions and contexts come back the same, or weights would not be 1."""
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    OURS.build(home)
    rule = {
        "key": "x",
        "variations": [{"params": {"explore": {"temperature": 0.7, "among": 5}}}, {"params": {}}],
        "weights": [1, 0],
    }
    with (
        redis.Redis.from_url(redis_url) as store,
        running(Settings(home=home, redis_url=redis_url, redis_timeout_ms=2000, alias_poll_seconds=0.05)) as served,
    ):
        ExperimentStore(store).write(parse_object({"x": {"rules": [rule]}}), who="test", expected_version=0)
        eventually(lambda: served.gateway.experiments.version == 1)
        for number in range(30):
            row = OURS.user_row(number % 8, vectors=np.full((4, 2), 0.3), counts=[9.0] * 4)
            store.set(f"udf:{OURS.namespace}:u{number % 8}", row.pack())
            hours = {"context": {"hour": "20"}} if number % 3 else {}
            served.recommend(f"u{number % 8}", "video", k=3, exclude_ad_ids=["a7", "a2"][: number % 3], **hours)
        eventually(lambda: len(stream(store, "exposure")) == 30)
    out = home / "replay.json"
    result = CliRunner().invoke(app, ["ab", "replay", "adi+dsfm", "--temperature", "0.7", "--among", "5", "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert (found["requests"], found["domains"], found["bundle_id"]) == (30, {"video": 30}, "b1")
    clicks = found["metrics"]["click_rate"]
    assert (clicks["decisions"], clicks["users"]) == (90, 8)
    assert clicks["mean_weight"]["low"] == pytest.approx(1) and clicks["mean_weight"]["high"] == pytest.approx(1)
    assert "cannot be computed: the weights leave 7" in result.output
    missing = CliRunner().invoke(app, ["ab", "replay", "adi+nothing"])
    assert isinstance(missing.exception, BadInput) and "adi+dsfm" in missing.exception.hint
