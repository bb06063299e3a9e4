"""The measurement of assignment measures something: users are in experiments, and an SDK that assigns otherwise ends it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from abtest.assign import Assigner
from abtest.definitions import parse_object
from loadtests import assignment

CLAIMS_NOTHING = """
import json, sys
given = json.loads(sys.stdin.readline())
for _ in sys.stdin:
    print(json.dumps({"seconds": 1.0, "values": [[None] * len(given["features"]) for _ in given["users"]]}), flush=True)
"""


def test_every_experiment_takes_some_users_and_leaves_others() -> None:
    features = {f"e{number}": {"rules": [assignment._rule(number)]} for number in range(20)}
    assigner = Assigner(parse_object(features))
    users = [assignment._user(number) for number in range(600)]
    met = [{one.experiment for one in assigner.assign(user["id"], user["domain"], user)} for user in users]
    for name in features:
        assert 0 < sum(name in one for one in met) < len(users)


def test_it_prints_a_line_for_each_number_of_experiments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assignment, "ROUNDS", 1)
    monkeypatch.setattr(assignment, "USERS", 10)
    monkeypatch.setattr(sys, "argv", ["assignment"])
    assignment.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["1", "5", "20"]


def test_arms_that_differ_from_the_sdks_end_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asks = tmp_path / "claims.py"
    asks.write_text(CLAIMS_NOTHING)
    monkeypatch.setattr(assignment, "_ASK", asks)
    users = [assignment._user(number) for number in range(40)]
    with pytest.raises(SystemExit, match="assigned otherwise"):
        assignment._compare(1, {"e0": {"rules": [assignment._rule(0)]}}, users, Path(sys.executable))
