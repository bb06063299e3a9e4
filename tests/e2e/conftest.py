"""Two worlds and a night on each, shared by every end-to-end test: the rotating checkerboard, served, and a small demo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deploy.nightly import nightly
from deploy.redis_local import redis_url
from tests.e2e.command import Gateway, mdrec, serving

torch.set_num_threads(1)  # nights in this process run beside gateways
RECIPE = "adi:no_self_training+separate_dnn"  # a click elsewhere is no hint here: each pair has one domain


@pytest.fixture(scope="session")
def checkerboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset directory."""
    directory = tmp_path_factory.mktemp("worlds") / "checkerboard"
    made = mdrec(directory.parent, "data", "synth", "--world", "checkerboard", "--to", directory)
    assert made.returncode == 0, made.stderr
    return directory


@pytest.fixture(scope="session")
def night_home(tmp_path_factory: pytest.TempPathFactory, checkerboard: Path) -> Path:
    """A home after one whole night."""
    home = tmp_path_factory.mktemp("home")
    night = mdrec(home, "nightly", "--data", checkerboard, "--recipe", RECIPE)
    assert night.returncode == 0, night.stdout + night.stderr
    return home


@pytest.fixture(scope="session")
def gateway(night_home: Path) -> Iterator[Gateway]:
    with serving(night_home) as running:
        yield running


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset directory; to read."""
    directory = tmp_path_factory.mktemp("worlds") / "demo"
    made = mdrec(directory.parent, "data", "synth", "--to", directory, "--scale", "0.05")
    assert made.returncode == 0, made.stderr
    return directory


@pytest.fixture(scope="session")
def popular_home(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A home after the quickest night on the demo; to copy."""
    home = tmp_path_factory.mktemp("popular") / "home"
    night(home, demo, "popularity")
    return home


def night(home: Path, dataset: Path, recipe: str) -> list[str]:
    """What a night says, in this process: for tests that are about what comes of it."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MDREC_REDIS_URL", raising=False)  # no Redis but the home's own
        with redis_url(home) as url:
            done = nightly(dataset, [recipe], home, url, say=said.append)
    assert not done.failed, said
    return said
