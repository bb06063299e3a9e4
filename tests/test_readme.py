"""README.md does what it says: its blocks run in order against `make run`, its transcripts have the form of the real answers, its
diagram has the boxes of the code in the order of the code, and its rooms are the packages."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server import stages
from server.pipeline import Pipeline
from trainer import datasets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
VENV = Path(sys.executable).parent.parent
BESIDE_RUN = {"make run", "make test"}  # the one is what the others run against, the other runs this file


@dataclass
class Running:
    """`make run`, ready. directory: where the reader's second terminal is."""

    directory: Path
    port: int
    said: list[str]


def variables(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MDREC_", "MAKE", "MFLAGS"))}
    path = f"{VENV / 'bin'}{os.pathsep}{kept['PATH']}"
    return {**kept, "MDREC_HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": path, "COLUMNS": "150"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The README's `make run` on a demo of a tenth of the size. `-o`: the environment is the one that runs this test, so its
    stamp counts as made and nothing is installed."""
    directory = tmp_path_factory.mktemp("readme")
    home = directory / ".mdrec"
    datasets.synth("demo", home / "data" / "demo", seed=0, scale=0.1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["make", "-o", f"{VENV}/.cpu", "run", f"VENV={VENV}", f"PORT={port}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables(home),
        text=True,
        start_new_session=True,  # so that Ctrl-C below reaches make and mdrec, and nobody else
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said: list[str] = []
    settled = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if "mdrec is ready on" in line:
                settled.set()
        settled.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert settled.wait(600) and process.poll() is None, "\n".join(said)
        yield Running(directory, port, said)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("curl") is None, reason="needs make and curl")
@pytest.mark.timeout(1200)
def test_every_bash_block_does_what_the_text_under_it_shows(running: Running) -> None:
    assert any(f"mdrec is ready on http://127.0.0.1:{running.port}" in line for line in running.said)
    shown = 0
    for number, (language, text) in enumerate(BLOCKS):
        if language != "bash" or text.strip() in BESIDE_RUN:
            continue
        said = run(text, running)
        following, transcript = BLOCKS[number + 1] if number + 1 < len(BLOCKS) else ("", "")
        if following == "json":
            until = time.monotonic() + 30
            while form(json.loads(said)) != form(json.loads(transcript)) and time.monotonic() < until:
                said = run(text, running)  # a bundle or an experiment of the block before is on its way to the gateway
            assert form(json.loads(said)) == form(json.loads(transcript)), said
            shown += 1
        elif following == "text":
            missing = words(transcript) - words(said)
            assert not missing, f"the README shows {missing} under\n{text}but it said\n{said}"
            shown += 1
    assert shown == len([language for language, _ in BLOCKS if language in ("json", "text")])


def run(text: str, running: Running) -> str:
    """What a bash block prints. The reader's port is 8080, the test's is free."""
    script = "set -euo pipefail\n" + text.replace("127.0.0.1:8080", f"127.0.0.1:{running.port}")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=running.directory,
        env=variables(running.directory / ".mdrec"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def form(value: Any) -> Any:
    """Keys and types of JSON; of a list the first element's. Numbers are one type, and null is any."""
    if isinstance(value, dict):
        return {key: form(one) for key, one in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return "number" if isinstance(value, int | float) else type(value).__name__


def words(text: str) -> set[str]:
    """Words of letters alone: numbers, dates and digests differ from run to run."""
    return set(re.findall(r"(?<![\w.])[a-z][a-z_+]{2,}(?![\w.])", text))


def test_the_two_commands_are_targets_of_the_makefile_that_do_what_it_says() -> None:
    targets = dict(re.findall(r"^(\w+):.*\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = {text.strip() for language, text in BLOCKS if language == "bash"} & BESIDE_RUN
    assert found == BESIDE_RUN
    assert targets["run"].startswith("$(BIN)/mdrec run --port $(PORT)")
    assert "pytest" in targets["test"]
    for name in re.findall(r"`make (\w+)", README):
        assert name in targets


def test_the_diagram_has_the_boxes_of_the_code_in_the_order_of_the_code() -> None:
    (diagram,) = re.findall(r"## One diagram\n\n```\n(.*?)```", README, re.DOTALL)
    (planned,) = re.findall(r"^ +(\w+(?: -> \w+)+)$", stages.__doc__ or "", re.MULTILINE)
    in_order = planned.split(" -> ")
    assert " ► ".join(in_order) in diagram
    answering = inspect.getsource(Pipeline.recommend) + inspect.getsource(Pipeline._answer)
    timed = re.findall(r'watch\("(\w+)"\)', answering)
    assert [name for number, name in enumerate(timed) if name not in timed[:number]] == in_order
    (night,) = re.findall(r"one night +(\w+(?: ► \w+)+)", diagram)
    source = "".join(path.read_text() for path in sorted((ROOT / "deploy").glob("*.py")))
    steps = set(re.findall(r'\.run\(\s*f?"(\w+)', source)) | {"publish"}
    assert set(night.split(" ► ")) <= steps


def test_the_rooms_are_the_packages() -> None:
    listed = re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert sorted(listed) == sorted(packages)


def test_every_file_it_links_exists() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).is_file(), path
