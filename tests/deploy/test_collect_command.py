"""`mdrec collect` moves what is in the stream, and says what."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from abtest import ledger
from contracts.keys import EVENTS
from deploy.cli import app
from tests.abtest.world import exposure, log


def test_one_round_moves_events_and_puts_aside_what_is_none(home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    monkeypatch.setenv("MDREC_HOME", str(home))
    with redis.Redis.from_url(redis_url) as client:
        log(client, [exposure("r1")])
        client.xadd(EVENTS, {b"e": b"no event"})
        done = CliRunner().invoke(app, ["collect", "--once"])
        assert (done.exit_code, done.output) == (0, "1 answers and 0 outcomes moved, 1 that are no events put aside\n")
        assert client.xlen(EVENTS) == 0
    assert ledger.exposures(home / "events").collect()["request_id"].to_list() == ["r1"]
    assert "0 answers and 0 outcomes moved" in CliRunner().invoke(app, ["collect", "--once"]).output


def test_one_round_without_redis_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("MDREC_HOME", str(home))
    done = CliRunner().invoke(app, ["collect", "--once"])
    assert isinstance(done.exception, redis.ConnectionError)
