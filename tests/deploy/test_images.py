"""The container images, built here as far as one can without a container: their sources, their steps, their commands."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from deployment_files import REPOSITORY, check_command, copies, ignored, last, pip_steps, stages

from server.settings import Settings

CPU = REPOSITORY / "deploy" / "docker" / "Dockerfile.cpu"
GPU = REPOSITORY / "deploy" / "docker" / "Dockerfile.gpu"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
IMAGES = [
    pytest.param(CPU, "trainer", "cpu", ["mdrec", "nightly", "--data", "/data"], id="trainer"),
    pytest.param(CPU, "serve", "serve", ["mdrec", "serve", "--host", "0.0.0.0"], id="serve"),
    pytest.param(GPU, "", "gpu", ["mdrec", "nightly", "--data", "/data"], id="gpu"),
]
IMPORT_NAMES = {"POT": "ot", "faiss-cpu": "faiss"}


@pytest.mark.parametrize(("dockerfile", "target", "extra", "command"), IMAGES)
def test_an_image_copies_the_packages_and_installs_its_extra(
    dockerfile: Path, target: str, extra: str, command: list[str]
) -> None:
    stage = stages(dockerfile)[target]
    sources = [source for source, _ in copies(stage)]
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert not ignored(source), f".dockerignore keeps out {source}"
    rooms = {package.split(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]}
    needed = rooms | {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert set(sources) == needed
    assert extra in PROJECT["project"]["optional-dependencies"]
    (step,) = pip_steps(stage)
    assert step[-1] == f".[{extra}]"


@pytest.mark.parametrize(("dockerfile", "target", "extra", "command"), IMAGES)
def test_an_image_runs_a_real_command_and_not_as_root(dockerfile: Path, target: str, extra: str, command: list[str]) -> None:
    stage = stages(dockerfile)[target]
    assert last(stage, "CMD").exec_form == command
    check_command(command)
    after_user = stage[stage.index(last(stage, "USER")) :]
    assert after_user[0].text == "mdrec"
    assert not {"RUN", "COPY"} & {one.keyword for one in after_user}
    created = next(one.text for one in stage if one.keyword == "RUN" and one.text.startswith("useradd"))
    home = re.search(r"MDREC_HOME=(\S+)", " ".join(one.text for one in stage if one.keyword == "ENV"))
    assert home and f"--home-dir {home[1]} --create-home mdrec" in created


def test_the_training_image_asks_for_torch_and_the_serving_one_does_not() -> None:
    both = stages(CPU)
    assert [pip_steps(both[stage])[0][-1] for stage in ("trainer", "serve")] == [".[cpu]", ".[serve]"]
    assert "torch" in {_name(one) for one in PROJECT["project"]["optional-dependencies"]["cpu"]}
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["serve"]
    assert not [one for one in wanted if _name(one) in {"torch", "onnx", "captum"}]


def test_the_gpu_image_has_one_faiss() -> None:
    names = {_name(one) for one in PROJECT["project"]["optional-dependencies"]["gpu"]}
    assert {"faiss-gpu", "onnxruntime-gpu"} <= names and not {"faiss-cpu", "onnxruntime"} & names


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_healthcheck_follows_livez(status: int, healthy: bool) -> None:
    stage = stages(CPU)["serve"]
    port = Settings.model_fields["port"].default
    assert last(stage, "EXPOSE").text == str(port)
    probe = last(stage, "HEALTHCHECK").exec_form
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = [sys.executable, *(one.replace(f":{port}", f":{server.server_port}") for one in probe[1:])]
        done = subprocess.run(here, capture_output=True, check=False, env=_environment())
        server.shutdown()
    assert asked == ["/livez"]
    assert (done.returncode == 0) is healthy


@dataclass(frozen=True)
class Image:
    """What an image's steps leave behind: the copied sources, the commands, and the installed packages."""

    source: Path
    bin: Path
    packages: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**_environment(), "MDREC_HOME": str(self.bin.parent / "home"), "PYTHONNOUSERSITE": "1"}
        program = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(program, cwd=self.bin.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def serve_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The serve image's steps in a clean directory: its COPY sources and nothing else, installed into an environment that
    borrows the third-party packages of this one, except those the image does not install."""
    root = tmp_path_factory.mktemp("image")
    unwanted = shutil.ignore_patterns("__pycache__")
    for source, destination in copies(stages(CPU)["serve"]):
        (root / "src" / destination).parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, root / "src" / destination, ignore=unwanted)
        else:
            shutil.copy(REPOSITORY / source, root / "src" / destination)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    packages = next((root / "venv" / "lib").glob("python*")) / "site-packages"
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    install = [sys.executable, "-m", "pip", "--python", str(root / "venv" / "bin" / "python"), "install", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "."]
    subprocess.run([*install, *offline], cwd=root / "src", check=True, env=_environment())
    for name in _missing_in_serve():
        (packages / f"{name}.py").write_text(f"raise ImportError('{name} is not in the serving image')\n")
    return Image(root / "src", root / "venv" / "bin", packages)


def test_the_poisoned_packages_are_those_of_the_trainer_only() -> None:
    assert {"torch", "onnx", "captum", "ot"} <= _missing_in_serve()
    assert not {"onnxruntime", "faiss", "numpy", "fastapi"} & _missing_in_serve()


@pytest.mark.parametrize("command", [("mdrec", "--help"), ("mdrec", "serve", "--help"), ("mdrec", "nightly", "--help")])
def test_the_command_answers_in_the_image_without_torch(serve_image: Image, command: tuple[str, ...]) -> None:
    done = serve_image.run(*command)
    assert done.returncode == 0, done.stderr
    assert "Usage: mdrec" in done.stdout


def test_the_gateway_imports_in_the_image_without_torch(serve_image: Image) -> None:
    program = "import server.app, sys; print(server.app.__file__); assert 'torch' not in sys.modules"
    done = serve_image.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(serve_image.packages))


def test_serving_without_a_bundle_says_what_to_do(serve_image: Image) -> None:
    done = serve_image.run("mdrec", "serve", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "mdrec nightly" in done.stderr and "Traceback" not in done.stderr


def test_every_file_of_the_rooms_is_installed(serve_image: Image) -> None:
    lost = [path for path in _room_files(serve_image.source) if not (serve_image.packages / path).is_file()]
    assert not lost, f"add to pyproject's packages or package-data: {lost}"


def _room_files(source: Path) -> Iterator[str]:
    for room in ("contracts", "trainer", "indexer", "abtest", "server", "deploy"):
        for path in sorted((source / room).rglob("*")):
            # What deploys an image is not part of it; what runs inside it is code.
            if path.is_file() and (room != "deploy" or path.suffix == ".py"):
                yield path.relative_to(source).as_posix()


def _missing_in_serve() -> set[str]:
    extras = PROJECT["project"]["optional-dependencies"]
    kept = {_name(one) for one in PROJECT["project"]["dependencies"] + extras["serve"]}
    return {IMPORT_NAMES.get(one, one) for one in {_name(one) for one in extras["cpu"]} - kept}


def _name(requirement: str) -> str:
    return re.split(r"[<>=!\[; ]", requirement, maxsplit=1)[0]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("MDREC_", "PYTHONPATH", "PIP_"))}
