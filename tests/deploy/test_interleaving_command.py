"""`mdrec ab report` shows whose clicks an interleaving drew; `mdrec ab simulate-interleaving` writes its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from abtest import validate_interleaving
from abtest.experiments import ExperimentStore
from abtest.validate_interleaving import Needed
from contracts.events import Exposure, Feedback
from deploy.cli import app
from deploy.experiments_report import report_experiments
from tests.abtest.test_preference import RECIPES, merged, mix
from tests.abtest.world import exposure, log, outcome


def traffic(users: int) -> list[Exposure | Feedback]:
    """Two of three users click what the second recipe picked, the others what the first did; as many are in the control."""
    events: list[Exposure | Feedback] = []
    for number in range(users):
        events.append(merged(f"r{number}", f"u{number}", [0, 1, 0]))
        events.append(outcome(f"c{number}", "click", f"r{number}", f"u{number}", f"a{int(number % 3 > 0)}"))
        events.append(exposure(f"s{number}", f"v{number}", arm="control"))
    return events


def test_a_report_of_an_interleaving_says_which_recipe_users_prefer(
    home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDREC_REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    with redis.Redis.from_url(redis_url) as client:
        ExperimentStore(client).write(mix(), who="test", expected_version=0)
        log(client, traffic(300))
        result = CliRunner().invoke(app, ["ab", "report", "ranker-test", "--json", str(home / "report.json")])
        assert result.exit_code == 0, result.output
        said = " ".join(result.output.split())
        assert "Users prefer adi+shared_dnn: +0.333" in said and "100 : 200, 0 even" in said
        assert f"mixed ({RECIPES[0]} & {RECIPES[1]})" in said
        assert said.endswith("hold: there is no challenger")  # an interleaving compares; it is no recipe to promote
        told = json.loads((home / "report.json").read_text())["interleaved"][0]
        assert (told["arm"], told["overall"]["clicks"], told["overall"]["margin"]["value"]) == ("mixed", [100, 200], 1 / 3)
        lines: list[str] = []
        report_experiments(home, client, lines.append)
        assert any("Users prefer adi+shared_dnn" in line for line in lines)
    (written,) = (home / "reports").glob("*ranker-test.md")
    assert "## Interleaving in arm mixed" in written.read_text()


def test_the_simulation_writes_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Needed(lift=0.04, margin=0.1, split=60.0, interleaved=20.0, overlap=0.9, kept=0.95)
    monkeypatch.setattr(validate_interleaving, "needed", lambda world, rankers, seed: small)
    out = tmp_path / "tables.md"
    result = CliRunner().invoke(app, ["ab", "simulate-interleaving", "--experiments", "20", "--draws", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "| 10 ads, kinship 0.9 | 90% | +4.0% | +0.100 | 60 | 20 | 189 : 63 | 3.0 ± 0.0 | 95.0% |" in text
    assert "| equal rankers | 20 |" in text and "| the first is better, 20 users | 2 |" in text
    assert "A split of 60 users finds the better one in" in text
