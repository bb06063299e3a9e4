"""Who can be compared: pins, environments, and the one that speaks in tensors."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from loadtests.peers import __main__ as command
from loadtests.peers import install
from loadtests.peers.catalogue import PEERS


def test_every_requirement_is_pinned() -> None:
    required = [one for peer in PEERS.values() for one in peer.requirements]
    assert required and all(re.fullmatch(r"[a-z-]+(\[[a-z]+\])?==[\w.]+", one) for one in required)


def test_every_peer_has_a_server(tmp_path: Path) -> None:
    directory = Path(install.__file__).parent / "servers"
    assert {path.stem for path in directory.glob("[!_]*.py")} == PEERS.keys() - {"mdrec"}
    for name, peer in PEERS.items():
        line = peer.command(tmp_path, 1)
        assert (f"loadtests.peers.servers.{name}" in line) == (name != "mdrec")
        assert (line[0] == sys.executable) == (not peer.requirements)


def test_an_environment_counts_once_its_installer_has_finished(tmp_path: Path) -> None:
    (tmp_path / "litserve" / "bin").mkdir(parents=True)
    assert set(install.missing(tmp_path)) == {name for name, peer in PEERS.items() if peer.requirements}
    (tmp_path / "litserve" / "installed").touch()
    assert "litserve" not in install.missing(tmp_path)


def test_an_installation_that_fails_leaves_no_environment_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert install.install(["litserve", "naive"], tmp_path) == 1
    assert "litserve" in install.missing(tmp_path)
    told = capsys.readouterr()
    assert "naive: needs nothing of its own" in told.out and "not installed: litserve" in told.err


def test_a_request_travels_as_one_tensor_and_its_answer_comes_back() -> None:
    dialect = PEERS["pytriton"].dialect
    (tensor,) = json.loads(dialect.wrap(b'{"user_id": "\xc3\xa9"}'))["inputs"]
    assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [1])
    assert json.loads(tensor["data"][0]) == {"user_id": "é"}
    answer = {"outputs": [{"name": "answer", "data": [json.dumps({"ads": []})]}]}
    assert dialect.unwrap(json.dumps(answer).encode()) == {"ads": []}


def test_unknown_and_uninstalled_names_are_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names in (["litsrve"], ["install", "nobody"], ["litserve"]):
        with pytest.raises(SystemExit) as left:
            command.main([*names, "--environments", str(tmp_path), "--world", str(tmp_path / "world")])
        assert left.value.code == 2
    assert "not installed: litserve" in capsys.readouterr().err
