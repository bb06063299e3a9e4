"""Close the day: what the gateway logged becomes Parquet, and what was seen and clicked becomes training data."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import redis

from abtest import drain as stream
from abtest import ledger
from contracts.files import sha256_file
from deploy.steps import Steps
from trainer.datasets.canonical import Dataset


def drain(client: redis.Redis, home: Path) -> stream.DrainReport:
    """Move the events stream to the ledger under `home`. A night and a report may ask at once: one waits for the other."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "drain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return stream.drain(client, home / "events")


def logged_events(dataset: Dataset, home: Path, steps: Steps, say: Callable[[str], None]) -> Path | None:
    """Directory of canonical events that bundles of this dataset answered and clients reported on; None without any.

    Named by the ledger's files, so that a night that resumes sees the same rows.
    """
    parts = {path.relative_to(home).as_posix(): sha256_file(path) for path in sorted((home / "events").rglob("*.parquet"))}
    if not parts:
        return None
    context = [one.name for one in dataset.spec.features if one.side == "context"]
    family = bundle_family(dataset.spec.name)

    def write(path: Path) -> None:
        rows = ledger.training_rows(home / "events", context).filter(pl.col("bundle_id").str.starts_with(family))
        rows.drop("bundle_id").collect(engine="streaming").write_parquet(path / "events.parquet")

    path = steps.run("logged", {"parts": parts, "context": context, "family": family}, write)
    count = pl.scan_parquet(path / "events.parquet").select(pl.len()).collect().item()
    say(f"{'rows the gateway logged':<28} {count:,}")
    return path if count else None


def bundle_family(dataset: str) -> str:
    """What the ids of all bundles of a dataset begin with: a home may serve several datasets."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", dataset).strip("-") + "."
