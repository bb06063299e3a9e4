"""Locust itself, headless, in a process of its own, against a real HTTP server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_gateway import gateway, write_dataset

pytest.importorskip("locust")
REPOSITORY = Path(__file__).parents[2]


def _locust(url: str, dataset: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--json"]
    command += ["--users", "2", "--spawn-rate", "2", "--run-time", f"{seconds}s", "--host", url]
    environment = {**os.environ, "MDREC_LOAD_DATASET": str(dataset), "POLARS_MAX_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_right_answers_are_no_failures_and_every_task_ran(tmp_path: Path) -> None:
    with gateway() as (url, asked):
        done = _locust(url, write_dataset(tmp_path / "data"), seconds=2)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == set(asked) == {"/v1/recommend", "/v1/score", "/v1/feedback"}
    for path, row in rows.items():
        assert row["num_failures"] == 0
        assert 0 < row["num_requests"] <= asked[path]
    assert rows["/v1/recommend"]["num_requests"] > rows["/v1/feedback"]["num_requests"] > 0
    assert "{'full service': " in done.stderr


def test_wrong_answers_fail_the_run(tmp_path: Path) -> None:
    with gateway(broken=True) as (url, _):
        done = _locust(url, write_dataset(tmp_path / "data"), seconds=1)
    assert done.returncode == 1
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    recommend = rows["/v1/recommend"]
    assert recommend["num_failures"] == recommend["num_requests"] > 0
    assert "no ads" in done.stderr
    assert "/v1/feedback" not in rows  # there was nothing to report on


def test_no_dataset_is_one_line_and_no_load(tmp_path: Path) -> None:
    with gateway() as (url, asked):
        done = _locust(url, tmp_path / "nowhere", seconds=1)
    assert done.returncode != 0 and not asked
    assert "MDREC_LOAD_DATASET" in done.stderr and "Traceback" not in done.stderr
