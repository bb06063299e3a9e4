"""Does the attribution find what was planted? The demo world under several seeds, with its own decoys and with larger ones.

    python -m loadtests.planted [--seeds 5] [--decoys 100000]

A world counts as found where every planted feature stands above every other one: by the distance over chance (what
`mdrec attribute` ranks by), and beside it by the bare distance, as the paper prints it. One thread; worlds live in a temporary
directory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trainer.attribution import DomainSensitivity, attribute
from trainer.datasets import Dataset, synth
from trainer.datasets.click_law import SENSITIVE
from trainer.tables import Tables
from trainer.train import found_by, sensitivity

PLANTED = frozenset(name for names in SENSITIVE.values() for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="worlds, each with a base model of its own seed")
    parser.add_argument("--decoys", type=int, default=100_000, help="values of the random ids in the second half of the table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| decoys | seed | planted above others | margin, nats | lowest planted | highest other | bare distance | seconds |")
    print("|---|---:|---|---:|---|---|---|---|")
    found = bare = 0
    for decoys in (None, asked.decoys):
        for seed in range(asked.seeds):
            with TemporaryDirectory() as scratch:
                corrected, uncorrected, seconds = _world(Path(scratch), seed, decoys)
            (low, planted), (high, other) = margin(corrected)
            found += planted > other
            lost = above_planted(uncorrected)
            bare += not lost
            size = f"{decoys:,} values" if decoys else "the demo's"
            said = f"no: {len(lost)} others above a planted one, first {lost[0]}" if lost else "yes"
            cells = [size, str(seed), "yes" if planted > other else "no", f"{planted - other:+.3f}"]
            print(f"| {' | '.join(cells)} | {low} {planted:.3f} | {high} {other:.3f} | {said} | {seconds} |", flush=True)
    worlds = 2 * asked.seeds
    print(f"\nover chance: {found} of {worlds} worlds; bare distance: {bare} of {worlds}")


def margin(report: Sequence[DomainSensitivity]) -> tuple[tuple[str, float], tuple[str, float]]:
    """The lowest planted feature and the highest other one, each with its divergence."""
    planted = min((one for one in report if one.name in PLANTED), key=lambda one: one.divergence)
    other = max((one for one in report if one.name not in PLANTED), key=lambda one: one.divergence)
    return (planted.name, planted.divergence), (other.name, other.divergence)


def above_planted(report: Sequence[DomainSensitivity]) -> list[str]:
    """Features that are not planted and stand above one that is, the highest first."""
    lowest = min(one.divergence for one in report if one.name in PLANTED)
    ordered = sorted(report, key=lambda one: -one.divergence)
    return [one.name for one in ordered if one.name not in PLANTED and one.divergence >= lowest]


def _world(scratch: Path, seed: int, decoys: int | None) -> tuple[list[DomainSensitivity], list[DomainSensitivity], str]:
    """The two reports, and the seconds of the first with its base model."""
    synth("demo", scratch / "data", seed, decoys=decoys)
    tables = Tables.build(Dataset.open(scratch / "data"), scratch / "tables")
    started = time.perf_counter()
    sensitivity(tables, seed, scratch / "base")
    whole = time.perf_counter() - started
    model, corrected = found_by(tables, seed, scratch / "base")
    uncorrected = attribute(model, tables, seed=seed, permutations=0)
    return corrected, uncorrected, f"{whole:.1f}"


if __name__ == "__main__":
    main()
