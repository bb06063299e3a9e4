"""The ledger: every event once, whatever dies when; joined with its exposure, or counted for why it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from abtest import drain as drain_module
from abtest.drain import DrainReport, drain
from abtest.ledger import exposures, feedback, join_report, joined, training_rows
from contracts.errors import BadInput, WorkFailed
from contracts.events import to_stream
from contracts.keys import EVENTS
from tests.abtest.world import DAY, NOON, exposure, log, outcome


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def request_ids(directory: Path) -> list[str]:
    return exposures(directory).collect()["request_id"].to_list()


def rows_on_disk(directory: Path) -> int:
    return sum(len(pl.read_parquet(path)) for path in directory.glob("day=*/*.parquet"))


def test_the_stream_is_moved_to_its_days_and_emptied(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure("r1"), outcome("e1", "click", "r1"), exposure("r2", time=NOON + DAY)])
    assert drain(client, tmp_path) == DrainReport(batches=1, exposures=2, feedback=1, rejected=0)
    assert sorted(path.name for path in tmp_path.glob("day=*")) == ["day=2026-11-20", "day=2026-11-21"]
    assert client.xlen(EVENTS) == 0
    assert request_ids(tmp_path) == ["r1", "r2"]
    assert drain(client, tmp_path) == DrainReport()


def test_everything_in_an_event_survives(client: redis.Redis, tmp_path: Path) -> None:
    sent = exposure("r\u0000é漢🎈", "u:1*", arm="challenger", context={"hour": "20", "n": 5}, degraded=["popular"])
    back = outcome("e1", "conversion", sent.request_id, "u:1*", time=-1e12, value=3.25, position=2)
    log(client, [sent, back])
    drain(client, tmp_path)
    row = exposures(tmp_path).collect().row(0, named=True)
    assert (row["request_id"], row["user_id"], row["degraded"], row["context"]) == (
        sent.request_id, "u:1*", ["popular"], '{"hour": "20", "n": 5}',
    )  # fmt: skip
    assert row["arms"] == [{"experiment": "ranker-test", "arm": "challenger", "recipe": "adi+dsfm"}]
    assert row["ads"] == [ad.model_dump() for ad in sent.ads]
    assert row["time"] == datetime(2026, 11, 20, 12, tzinfo=UTC)
    told = feedback(tmp_path).collect().row(0, named=True)
    assert (told["time"], told["value"], told["position"]) == (-1e12, 3.25, 2)


def test_many_batches_lose_and_repeat_nothing(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure(f"r{number}") for number in range(25)])
    assert drain(client, tmp_path, batch=10).batches == 3
    assert request_ids(tmp_path) == [f"r{number}" for number in range(25)]


@pytest.mark.parametrize("dies_in", ["write_json", "_trim"])
def test_a_drain_that_dies_around_its_commit_is_made_good(
    client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    """write_json commits after the files are written; _trim follows the commit."""
    log(client, [exposure("r1"), outcome("e1", "click", "r1"), exposure("r2", time=NOON + DAY)])

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(drain_module, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            drain(client, tmp_path)
    assert client.xlen(EVENTS) == 3  # nothing is trimmed before it is committed
    log(client, [exposure("r3")])
    drain(client, tmp_path)
    assert request_ids(tmp_path) == ["r1", "r2", "r3"]
    assert rows_on_disk(tmp_path) == 4
    assert client.xlen(EVENTS) == 0


def test_a_drain_killed_at_any_write_is_made_good(client: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    """SIGKILL in a process of its own, after each file of the batch in turn, then a drain of what is left."""
    script = (
        "import os, signal, sys, pathlib, redis\n"
        "import abtest.drain as module\n"
        "renames, real = [0], pathlib.Path.replace\n"
        "def replace(self, target):\n"
        "    result = real(self, target)\n"
        "    renames[0] += 1\n"
        "    if renames[0] == int(sys.argv[3]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return result\n"
        "pathlib.Path.replace = replace\n"
        "module.drain(redis.Redis.from_url(sys.argv[1]), pathlib.Path(sys.argv[2]), batch=3)\n"
    )
    for kill_after in (1, 2, 3, 4):
        directory = tmp_path / str(kill_after)
        client.flushall()
        log(client, [exposure("r1"), outcome("e1", "click", "r1"), exposure("r2", time=NOON + DAY), exposure("r3")])
        killed = subprocess.run(
            [sys.executable, "-c", script, redis_url, str(directory), str(kill_after)], env={**os.environ}, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        drain(client, directory)
        assert sorted(request_ids(directory)) == ["r1", "r2", "r3"]
        assert rows_on_disk(directory) == 4
        assert client.xlen(EVENTS) == 0


def test_what_is_no_event_is_kept_aside_and_blocks_nothing(client: redis.Redis, tmp_path: Path) -> None:
    client.xadd(EVENTS, {b"e": b'{"kind": "gossip"}'})
    client.xadd(EVENTS, {b"other": b"\xff"})
    client.xadd(EVENTS, to_stream(exposure("r0", time=1e18)))
    log(client, [exposure("r1")])
    assert drain(client, tmp_path) == DrainReport(batches=1, exposures=1, feedback=0, rejected=3)
    (kept,) = (tmp_path / "rejected").glob("*.jsonl")
    assert len(kept.read_text().splitlines()) == 3
    assert "gossip" in kept.read_text()


def test_a_stream_older_than_the_ledger_is_not_thrown_away(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure("r1")])
    drain(client, tmp_path)
    client.flushall()
    client.xadd(EVENTS, to_stream(exposure("r0")), id="5-1")
    with pytest.raises(WorkFailed, match="older than the batch"):
        drain(client, tmp_path)
    (tmp_path / "_drained.json").unlink()
    drain(client, tmp_path)
    assert "r0" in request_ids(tmp_path)


def test_outcomes_meet_their_exposure_and_the_rest_is_counted(client: redis.Redis, tmp_path: Path) -> None:
    log(
        client,
        [
            exposure("r1", arm="challenger"),
            exposure("r1", arm="challenger"),  # a retry
            exposure("r1", "u2"),  # the caller's request_id is not unique: another user
            outcome("e1", "impression", "r1"),
            outcome("e2", "click", "r1"),
            outcome("e2", "click", "r1"),  # sent twice
            outcome("e3", "click", "r1"),  # a second click on the same ad
            outcome("e4", "click", "r1", ad_id="a1", value=0.4),  # a click without an impression
            outcome("e5", "impression", "r1", ad_id="a2"),
            outcome("e6", "conversion", "r1", ad_id="a1", value=30.0),
            outcome("e7", "click", "r1", ad_id="never shown"),
            outcome("e8", "click", "r9"),
            outcome("e9", "click", "r1", "u3"),
            outcome("e10", "click", "r1", ad_id="a2", received=NOON + 8 * DAY),
        ],
    )
    drain(client, tmp_path)
    rows = joined(tmp_path).sort("ad_id").collect()
    assert rows.select("user_id", "ad_id", "clicked", "conversions", "conversion_value", "revenue", "position").rows() == [
        ("u1", "a0", True, 0, 0.0, 1.5, 0),
        ("u1", "a1", True, 1, 30.0, 0.4, 1),
        ("u1", "a2", False, 0, 0.0, 0.0, 2),
    ]
    assert rows["arms"][0].to_list() == [{"experiment": "ranker-test", "arm": "challenger", "recipe": "adi+dsfm"}]
    counted = join_report(tmp_path)
    assert (counted.exposures, counted.duplicate_exposures) == (2, 1)
    assert (counted.events, counted.duplicate_events, counted.orphan_events, counted.late_events) == (11, 1, 3, 1)
    assert counted.joined_events == 6
    patient = joined(tmp_path, window=timedelta(days=30)).sort("ad_id").collect()
    assert patient["clicked"].to_list() == [True, True, True]


def test_days_choose_exposures_and_their_outcomes_come_from_later_days(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure("r1"), exposure("r2", time=NOON + DAY), outcome("e1", "click", "r1", received=NOON + DAY)])
    log(client, [outcome("e2", "click", "r2", received=NOON + DAY)])
    drain(client, tmp_path)
    first = date(2026, 11, 20)
    assert joined(tmp_path, until=first).collect()["request_id"].to_list() == ["r1"]
    assert joined(tmp_path, since=date(2026, 11, 21)).collect()["request_id"].to_list() == ["r2"]


def test_training_rows_are_canonical_events(client: redis.Redis, tmp_path: Path) -> None:
    log(
        client,
        [
            exposure("r1", context={"hour": "20", "it's": 5, "none": None}),
            outcome("e1", "impression", "r1"),
            outcome("e2", "click", "r1", ad_id="a1"),
        ],
    )
    drain(client, tmp_path)
    rows = training_rows(tmp_path, ["hour", "it's", "none", "absent"]).sort("ad_id").collect()
    assert rows.schema == pl.Schema(
        {
            "user_id": pl.String(), "ad_id": pl.String(), "domain": pl.String(), "timestamp": pl.Datetime("us", "UTC"),
            "label": pl.Float32(), "bid": pl.Float64(), "bundle_id": pl.String(),
            "hour": pl.String(), "it's": pl.String(), "none": pl.String(), "absent": pl.String(),
        }
    )  # fmt: skip
    when = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert rows.rows() == [
        ("u1", "a0", "feed", when, 0.0, 1.5, "b1", "20", "5", None, None),
        ("u1", "a1", "feed", when, 1.0, 1.5, "b1", "20", "5", None, None),
    ]
    with pytest.raises(BadInput, match="backslash"):
        training_rows(tmp_path, ["a\\b"])


def test_an_empty_ledger_reads_as_nothing(tmp_path: Path) -> None:
    assert joined(tmp_path).collect().is_empty()
    assert training_rows(tmp_path, ["hour"]).collect().is_empty()
    assert join_report(tmp_path).events == 0
