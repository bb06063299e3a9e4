"""`mdrec caps fill`: what the ledger has of before a cap counts as if the cap had always been there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from abtest.caps import Cap
from abtest.definitions import Definitions
from abtest.experiments import ExperimentStore
from contracts.events import Feedback
from contracts.keys import EVENTS, seen
from contracts.seen import KEPT, Outcome, member, outcomes
from deploy.cli import app
from tests.abtest.world import log


def told(event_id: str, user: str, ad: str, hours_ago: float, domain: str = "feed") -> Feedback:
    at = time.time() - 3600 * hours_ago
    who = {"request_id": "r", "user_id": user, "domain": domain, "ad_id": ad}
    return Feedback(event_id=event_id, type="impression", time=at, received=at, **who)


def test_the_ledgers_outcomes_are_those_that_the_gateway_would_have_written(
    home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    monkeypatch.setenv("MDREC_HOME", str(home))
    with redis.Redis.from_url(redis_url) as client:
        uncapped = CliRunner().invoke(app, ["caps", "fill"])
        assert uncapped.exit_code != 0 and "no domain has a cap" in str(uncapped.exception)
        caps = {"feed": Cap(impressions=2, hours=48), "mail": Cap(impressions=1, active=False)}
        ExperimentStore(client).write(Definitions(features={}, caps=caps), who="x", expected_version=0)
        events = [told("e1", "u", "a", 47), told("e2", "u", "a", 1), told("e2", "u", "a", 1), told("e3", "u", "b", 49)]
        log(client, [*events, told("e4", "u", "c", 1, domain="mail"), told("e5", "v", "d", 30)])
        client.zadd(seen("u"), {member("impression", "feed", "a", "e2"): events[1].received * 1e3})  # the gateway's
        for _ in range(2):
            done = CliRunner().invoke(app, ["caps", "fill"])
            assert (done.exit_code, done.output) == (0, "3 outcomes count towards the caps of feed\n"), done.exception
            assert client.xlen(EVENTS) == 0
            found = outcomes(client.zrange(seen("u"), 0, -1, withscores=True))
            at = [round(one.received * 1e3, -1) for one in events[:2]]
            assert [one._replace(at_ms=round(one.at_ms, -1)) for one in found] == [
                Outcome("impression", "feed", "a", each) for each in at
            ]
            assert caps["feed"].barred("feed", found, time.time() * 1e3) == ["a"]
            assert client.zcard(seen("v")) == 1 and 0 < client.ttl(seen("v")) <= 48 * 3600


def test_of_a_busy_user_the_latest_stay(home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    monkeypatch.setenv("MDREC_HOME", str(home))
    with redis.Redis.from_url(redis_url) as client:
        ExperimentStore(client).write(Definitions(features={}, caps={"feed": Cap(impressions=1)}), who="x", expected_version=0)
        log(client, [told(f"e{number}", "u", f"a{number}", 20 - number / 60) for number in range(KEPT + 8)])
        assert CliRunner().invoke(app, ["caps", "fill"]).exit_code == 0
        kept = [one.ad_id for one in outcomes(client.zrange(seen("u"), 0, -1, withscores=True))]
    assert kept == [f"a{number}" for number in range(8, KEPT + 8)]
