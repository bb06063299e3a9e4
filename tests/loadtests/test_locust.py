"""Locust itself, headless, in a process of its own, against a real HTTP server. A run ends when the server has seen enough."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_gateway import Gateway, gateway, write_dataset

# Not importorskip: importing locust replaces threads by greenlets in the whole test process, and a gateway then never answers.
pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="the extra `load` is not installed")
REPOSITORY = Path(__file__).parents[2]
GIVE_UP_SECONDS = 120


def _locust(server: Gateway, dataset: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--json"]
    command += ["--users", "2", "--spawn-rate", "2", "--host", server.url]
    environment = {**os.environ, "MDREC_LOAD_DATASET": str(dataset), "POLARS_MAX_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        assert server.busy.wait(GIVE_UP_SECONDS), "Locust sent too little"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=GIVE_UP_SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_right_answers_are_no_failures_and_every_task_ran(tmp_path: Path) -> None:
    with gateway(enough=300) as server:
        done = _locust(server, write_dataset(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == set(server.asked) == {"/v1/recommend", "/v1/score", "/v1/feedback"}
    for path, row in rows.items():
        assert row["num_failures"] == 0
        assert 0 < row["num_requests"] <= server.asked[path]
    assert rows["/v1/recommend"]["num_requests"] > rows["/v1/feedback"]["num_requests"]
    assert "{'full service': " in done.stderr


def test_wrong_answers_fail_the_run(tmp_path: Path) -> None:
    with gateway("empty", enough=100) as server:
        done = _locust(server, write_dataset(tmp_path / "data"))
    assert done.returncode == 1
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    recommend = rows["/v1/recommend"]
    assert recommend["num_failures"] == recommend["num_requests"] > 0
    assert "no ads" in done.stderr
    assert "/v1/feedback" not in rows  # there was nothing to report on


def test_a_gateway_that_never_answers_fails_the_run(tmp_path: Path) -> None:
    with gateway("silent") as server:
        done = _locust(server, write_dataset(tmp_path / "data"))
    assert done.returncode == 1
    assert "no request was answered" in done.stderr


def test_no_dataset_is_one_line_and_no_load(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless"]
    environment = {**os.environ, "MDREC_LOAD_DATASET": str(tmp_path / "nowhere")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MDREC_LOAD_DATASET" in done.stderr and "Traceback" not in done.stderr
