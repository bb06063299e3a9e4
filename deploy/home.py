"""Where everything mdrec makes lives on disk."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """MDREC_HOME, by default `.mdrec` in the working directory."""
    return Path(os.environ.get("MDREC_HOME") or ".mdrec").absolute()


def events_directory() -> Path:
    """The Parquet ledger of exposures and feedback."""
    return home() / "events"


def demo_dataset() -> Path:
    return home() / "data" / "demo"
