"""Where the data comes from: the canonical dataset, its check, one adapter a public source, and two worlds made up here."""

from __future__ import annotations

from collections.abc import Callable
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

Adapter = Callable[..., list[str]]

# name -> import(from_dir, to_dir, its own options) -> lines to print; the docstring says which files it expects.
ADAPTERS: dict[str, Adapter] = {
    "kuairand": import_kuairand,
    "xmrec": import_xmrec,
    "aliccp": import_aliccp,
    "edda_aliccp": import_edda_aliccp,
    "edda_aliad": import_edda_aliad,
    "open_bandit": import_open_bandit,
}


def synth(
    world: Literal["demo", "checkerboard"],
    to_dir: Path,
    seed: int = 0,
    scale: float = 1.0,
    domains: int = Sizes.domains,
    decoys: int | None = None,
) -> list[str]:
    """Write a made-up world; lines to print come back. scale multiplies the impressions (demo) or the users (checkerboard).
    domains, decoys: of the demo, see Sizes."""
    if scale <= 0:
        raise BadInput(f"scale {scale} is not positive", "1 is the default size")
    if domains < 2 or (decoys is not None and decoys < 1):
        raise BadInput("a world needs two domains, and its random ids a value", "leave them out for the demo's own")
    if world == "demo":
        impressions = max(1, round(Sizes.impressions * scale))
        return write_demo(to_dir, seed, Sizes(impressions=impressions, domains=domains, decoys=decoys))
    if (domains, decoys) != (Sizes.domains, None):
        raise BadInput(f"--domains and --decoys are the demo's; {world} has none of them", "leave them out")
    if world == "checkerboard":
        return write_checkerboard(to_dir, seed, users=4 * max(1, round(50 * scale)))
    raise BadInput(f"unknown world {world!r}", "known worlds: demo, checkerboard")
