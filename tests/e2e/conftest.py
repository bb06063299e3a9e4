"""One night on the rotating checkerboard, served: shared by every end-to-end test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import Gateway, mdrec, serving

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
