"""`mdrec ab` changes the definitions that gateways read."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from abtest.experiments import ExperimentStore
from deploy.commands.experiments import app

DRAFT = """
ranker:
  rules:
    - {key: r, status: draft, coverage: 0.1, variations: [{recipe: a}, {recipe: b}], meta: [{key: old}, {key: new}]}
"""


def test_an_experiment_runs_from_draft_to_release_and_all_are_killed_and_restored(
    home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    (home / "x.yaml").write_text(DRAFT)

    def after(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        with redis.Redis.from_url(redis_url) as client:
            now = ExperimentStore(client).read().definitions
        rule = now.experiment("r")
        return {"all": now.active, "active": rule.active, "status": rule.status, "arm": rule.released, "coverage": rule.coverage}

    running = {"all": True, "active": True, "status": "running", "arm": None, "coverage": 0.1}
    assert after("create", str(home / "x.yaml")) == {**running, "status": "draft"}
    assert after("start", "r") == running
    assert after("ramp", "r", "--coverage", "0.5") == (running := {**running, "coverage": 0.5})
    assert after("pause", "r") == {**running, "active": False}
    assert after("pause", "r", "--resume") == running
    assert after("kill") == {**running, "all": False}
    assert after("kill", "--restore") == running
    assert after("stop", "r", "--release", "new") == {**running, "status": "stopped", "arm": "new"}
