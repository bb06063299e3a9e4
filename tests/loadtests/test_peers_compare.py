"""The comparison itself, in small: mdrec's own command and a peer, on a core each way, from agreement to the report."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import redis

from contracts.errors import WorkFailed
from contracts.keys import EVENTS
from deploy.redis_local import LocalRedis
from loadtests.kernels import live_bundle
from loadtests.peers import compare, world
from loadtests.peers.compare import Cores, Plan


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home: Path = tmp_path_factory.mktemp("compared")
    world.build(home, ads=1000, users=20, say=lambda line: None)
    live_bundle(home)  # compiles what ranks, once for all starts
    return home


def test_servers_are_measured_alike_and_reported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_FRACTIONS": (0.5,), "_STEPS": 1, "_IDLE_SECONDS": 0.1}.items():
        monkeypatch.setattr(compare, name, value)
    before = os.sched_getaffinity(0)
    out = tmp_path / "new" / "report"
    compare.compare(["mdrec", "fastapi_ort"], home, 1000, tmp_path, Plan(2, 0.1, 0.5, (1, 4)), out)
    assert os.sched_getaffinity(0) == before
    body = json.loads(out.with_suffix(".json").read_text())
    measured = {(one["server"], one["callers"], one["round"]) for one in body["windows"]}
    assert measured == {(name, callers, number) for name in ("mdrec", "fastapi_ort") for callers in (1, 4) for number in (0, 1)}
    assert all(one["per_second"] > 0 and one["cpu_ms"] > 0 and one["failures"] == 0 for one in body["windows"])
    for server in body["servers"].values():
        assert server["overlap_least"] == 1.0 and server["p_click_difference"] < 1e-4
        assert server["rss"] >= server["pss"] > 10
    assert {one["server"] for one in body["points"]} == {"mdrec", "fastapi_ort"}
    assert len(body["kernels_us"]) == 2 and all(len(one) == 4 for one in body["kernels_us"])
    text = out.with_suffix(".md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "times the sum of its bare kernels" in text and "4 callers at once" in text
    assert out.with_suffix(".png").stat().st_size > 1000
    store = LocalRedis(home / "redis").start()
    with redis.Redis.from_url(store.url) as client:
        assert client.exists(EVENTS) == 0  # what mdrec logged is gone, the users are not
        assert sum(1 for _ in client.scan_iter("udf:*")) == 20 + 1
    store.stop()


def test_cores_are_given_to_workers_first_and_the_generators_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 0, 2, 1})
    cores = Cores.of_machine()
    assert (cores.server, cores.load) == (0, 3)
    assert [cores.of_workers(workers) for workers in (1, 2, 4, 9)] == [{0}, {0, 1}, {0, 1, 2, 3}, {0, 1, 2, 3}]


def test_a_world_that_cannot_be_built_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkFailed, match="could not be built"):
        compare.world_of(tmp_path, ads=10)
