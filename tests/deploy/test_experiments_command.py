"""`mdrec ab` changes the definitions that gateways read."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from abtest import promote
from abtest.experiments import ExperimentStore
from abtest.promote import Decision
from contracts.aliases import Aliases
from contracts.files import write_json
from contracts.manifest import MANIFEST
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


def test_a_report_is_applied_and_taken_back(home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision is given here; what leads to it has its own tests."""
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    aliases = Aliases(home)
    for recipe in ("a", "b"):
        write_json(aliases.bundle_directory(recipe) / MANIFEST, {})
        aliases.move(recipe, recipe)
    (home / "x.yaml").write_text(DRAFT.replace("status: draft, ", ""))

    def run(*arguments: str, decided: Decision | None = None, code: int = 0) -> tuple[str, str, str | None]:
        with monkeypatch.context() as patched:
            patched.setattr(promote, "decide", lambda report: decided)
            result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, result.output
        with redis.Redis.from_url(redis_url) as client:
            status = ExperimentStore(client).read().definitions.experiment("r").status
        return result.output, status, aliases.champion()

    run("create", str(home / "x.yaml"))
    said, *state = run("apply", "r", decided=Decision("hold", None, ["too few users"]))
    assert said == "hold: too few users\n" and state == ["running", "a"]
    said, *state = run("apply", "r", decided=Decision("promote", "new", ["it rose"]))
    assert "champion is b, was a" in said and state == ["stopped", "b"]
    assert run("revert", "r")[1:] == ("running", "a")
    assert run("apply", "r", decided=Decision("roll_back", "new", ["it fell"]))[1:] == ("stopped", "a")
    run("create", str(home / "x.yaml"))
    assert run("apply", "r", "--arm", "new", code=1)[1:] == ("running", "a")  # over the report's head, without a reason
    assert run("apply", "r", "--arm", "new", "--why", "law")[1:] == ("stopped", "b")
