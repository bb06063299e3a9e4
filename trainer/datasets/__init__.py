"""Where the data comes from: the canonical dataset, its check, one adapter a public source, and two worlds made up here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from contracts.errors import BadInput
from trainer.datasets.aliccp import import_aliccp
from trainer.datasets.canonical import Dataset, DatasetSpec
from trainer.datasets.checkerboard import write_checkerboard
from trainer.datasets.click_law import Sizes
from trainer.datasets.edda import import_edda_aliad, import_edda_aliccp
from trainer.datasets.kuairand import import_kuairand
from trainer.datasets.open_bandit import import_open_bandit
from trainer.datasets.simulator import write_demo
from trainer.datasets.writer import write_dataset
from trainer.datasets.xmrec import import_xmrec

__all__ = ["ADAPTERS", "Adapter", "Dataset", "DatasetSpec", "synth", "write_dataset"]

Adapter = Callable[[Path, Path], list[str]]

# name -> import(from_dir, to_dir) -> lines to print; the docstring says which files it expects.
ADAPTERS: dict[str, Adapter] = {
    "kuairand": import_kuairand,
    "xmrec": import_xmrec,
    "aliccp": import_aliccp,
    "edda_aliccp": import_edda_aliccp,
    "edda_aliad": import_edda_aliad,
    "open_bandit": import_open_bandit,
}


def synth(world: Literal["demo", "checkerboard"], to_dir: Path, seed: int = 0, scale: float = 1.0) -> list[str]:
    """Write a made-up world; lines to print come back. scale multiplies the impressions (demo) or the users (checkerboard)."""
    if scale <= 0:
        raise BadInput(f"scale {scale} is not positive", "1 is the default size")
    if world == "demo":
        return write_demo(to_dir, seed, replace(Sizes(), impressions=max(1, round(Sizes.impressions * scale))))
    if world == "checkerboard":
        return write_checkerboard(to_dir, seed, users=4 * max(1, round(50 * scale)))
    raise BadInput(f"unknown world {world!r}", "known worlds: demo, checkerboard")
