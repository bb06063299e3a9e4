"""kill -9 a night wherever it is: the next run ends in the same bundle and the same features as a night left alone."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis

from contracts import keys
from contracts.aliases import Aliases
from contracts.manifest import Manifest
from contracts.nights import read_nights
from deploy.redis_local import redis_url
from tests.e2e.command import MDREC, environment, mdrec
from trainer.datasets import synth

RECIPE = "popularity+dfei"
KILLS = 3


def _night(dataset: Path) -> list[str]:
    return ["nightly", "--data", str(dataset), "--recipe", RECIPE]


def _content(home: Path) -> tuple[str, str, dict[bytes, bytes]]:
    """Bundle id, digest of its files, and every user row in Redis."""
    aliases = Aliases(home)
    alias = aliases.get(RECIPE)
    assert alias is not None
    manifest = Manifest.load(aliases.bundle_directory(alias.bundle_id))
    manifest.verify(aliases.bundle_directory(alias.bundle_id))
    with redis_url(home) as url, redis.Redis.from_url(url) as client:
        pattern = keys.user_row_pattern(manifest.namespace)
        rows = {key: client.get(key) for key in client.scan_iter(match=pattern, count=1000)}
    return alias.bundle_id, manifest.content_digest, rows  # type: ignore[return-value]


def test_a_killed_night_ends_like_one_left_alone(tmp_path: Path) -> None:
    dataset = tmp_path / "demo"
    synth("demo", dataset, scale=0.1)
    started = time.monotonic()
    whole = mdrec(tmp_path / "whole", *_night(dataset))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    usual_seconds = time.monotonic() - started

    moments = random.Random(7)
    for kill in range(KILLS):
        process = subprocess.Popen(
            [MDREC, *_night(dataset)], env=environment(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=moments.uniform(0.15, 0.9) * usual_seconds / (1 + kill))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    resumed = mdrec(tmp_path / "killed", *_night(dataset))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert _content(tmp_path / "killed") == _content(tmp_path / "whole")


def test_a_night_with_nothing_new_reuses_every_step(popular_home: Path, demo: Path, tmp_path: Path) -> None:
    home = shutil.copytree(popular_home, tmp_path / "home")
    before = Aliases(home).get("popularity")
    again = mdrec(home, "nightly", "--data", demo, "--recipe", "popularity")
    assert again.returncode == 0 and before is not None and Aliases(home).get("popularity") == before
    assert "reused" in again.stdout and "train-popularity" not in again.stdout
    (last, first), damaged = read_nights(home, 9)
    assert (first.status, last.status, damaged) == ("done", "done", [])
    assert all(one.reused for one in last.steps) and not any(one.reused for one in first.steps)
    assert [one.bundle_id for one in first.recipes] == [before.bundle_id] and first.recipes[0].gates
