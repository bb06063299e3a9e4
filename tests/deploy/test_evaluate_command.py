"""`mdrec evaluate` from its command line: files and text that agree, refusals before any work."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from deployment_files import REPOSITORY, check_command

from contracts.errors import BadInput, WorkFailed
from deploy import cli
from trainer import recipes, trials
from trainer.datasets.checkerboard import write_checkerboard
from trainer.paired import Difference

TEST_FROM = "2026-01-05"
PAGE = (REPOSITORY / "docs" / "evaluation.md").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world") / "data"
    write_checkerboard(directory, users=40, ads=40)
    return directory


def mdrec(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(one) for one in arguments])
    return int(ended.value.code or 0)


def test_one_command_writes_json_report_plots_and_tables(
    world: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--recipe", "rates", "--recipe", "popularity", "--seeds", 2, "--score-domains", "d0, d2", "--quick"]
    out = ["--json", tmp_path / "r.json", "--report", tmp_path / "r.html", "--plots", tmp_path / "plots"]
    assert mdrec("evaluate", world, *asked, "--test-from", TEST_FROM, *out) == 0
    text, result = capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text())
    assert result["score_domains"] == ["d0", "d2"] and result["seeds"] == [0, 1] and result["against"] == "rates"
    assert "epochs:quick<=" in result["signature"] and result["signature"] in text
    assert [(row["recipe"], row["seed"]) for row in result["rows"]] == [
        ("rates", 0),
        ("rates", 1),
        ("popularity", 0),
        ("popularity", 1),
    ]
    assert f"{result['rows'][0]['auc']['scored']:.4f}" in text and "AUC mean (scored)" in text
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    named = set(re.findall(r"`(\w+)`", PAGE.split("## The JSON")[1].split("Rows may")[0]))
    assert named == {*result, *(one.name for one in fields(Difference)), "failed"} - {"metric", "scope"}
    plots = sorted((tmp_path / "plots").iterdir())
    assert plots and all(one.read_bytes().startswith(b"\x89PNG") and one.stat().st_size < 60_000 for one in plots)


def test_the_commands_of_the_page_are_real() -> None:
    for command in re.findall(r"`(mdrec [^`]+)`", PAGE):
        check_command(shlex.split(command))


def test_a_set_is_every_model_of_its_half(monkeypatch: pytest.MonkeyPatch, world: Path, home: Path) -> None:
    from trainer import evaluate

    seen: dict[str, object] = {}

    def asked(directory: Path, names: list[str], **given: object) -> dict[str, object]:
        seen.update(given, names=names)
        raise BadInput("seen enough")

    monkeypatch.setattr(evaluate, "evaluate", asked)
    assert mdrec("evaluate", world, "--recipe", "dsfm:softmax_attn", "--set", "rankers", "--jobs", 2, "--against", "rates") == 2
    assert seen["names"] == ["dsfm:softmax_attn", *recipes.RANKERS] and seen["jobs"] == 2 and seen["against"] == "rates"
    assert mdrec("evaluate", world, "--set", "popularity", "--set", "dfei") == 2
    assert seen["names"] == [one for one in recipes.known() if re.match("(popularity|dfei)(:|$)", one)]
    assert {"popularity", "dfei", "dfei:turns", "dfei:no_statistics"} <= set(seen["names"])


def test_what_cannot_be_is_refused_in_one_line(world: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdrec("evaluate", world) == 2 and "--set" in capsys.readouterr().err
    assert mdrec("evaluate", world, "--set", "towers") == 2 and "known: rankers, retrievers" in capsys.readouterr().err
    assert mdrec("evaluate", world, "--recipe", "rates", "--score-domains", "d9", "--test-from", TEST_FROM) == 2
    assert "unknown domain 'd9'" in capsys.readouterr().err


def test_a_failed_trial_fails_the_command_after_the_rest_is_written(
    world: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*given: object) -> None:
        raise WorkFailed("out of luck")

    monkeypatch.setattr(trials, "train_retriever", failing)
    out = ("--json", tmp_path / "r.json")
    assert mdrec("evaluate", world, "--recipe", "rates", "--recipe", "popularity", "--test-from", TEST_FROM, *out) == 1
    assert "popularity seed 0" in capsys.readouterr().err
    assert [row["recipe"] for row in json.loads((tmp_path / "r.json").read_text())["rows"]] == ["rates"]
