"""A step runs once per digest of its inputs, and an unfinished one runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.steps import Steps


def _steps(directory: Path) -> Steps:
    return Steps(directory, say=lambda line: None)


def test_a_finished_step_is_reused(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = _steps(tmp_path).run("train", {"seed": 1}, calls.append)
    again = _steps(tmp_path).run("train", {"seed": 1}, calls.append)
    assert first == again and calls == [first]


def test_other_inputs_are_another_step(tmp_path: Path) -> None:
    steps = _steps(tmp_path)
    assert steps.run("train", {"seed": 1}, lambda path: None) != steps.run("train", {"seed": 2}, lambda path: None)


def _interrupted(path: Path) -> None:
    (path / "half").write_text("written")
    raise KeyboardInterrupt


@pytest.mark.parametrize("resumable", [False, True])
def test_an_interrupted_step_runs_again(tmp_path: Path, resumable: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        _steps(tmp_path).run("train", {}, _interrupted, resumable=resumable)
    seen: list[bool] = []
    _steps(tmp_path).run("train", {}, lambda path: seen.append((path / "half").exists()), resumable=resumable)
    assert seen == [resumable], "only a resumable step finds what it left behind"
