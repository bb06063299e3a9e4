"""What a night takes by step, and how that grows: of given datasets, or of the simulator at several scales.

    python -m loadtests.nights --scales .5 5            ten times the rows
    python -m loadtests.nights --domains 4 16           four times the domains; --users and --ads likewise
    python -m loadtests.nights --data kuairand --test-from 2022-05-03

Each night is the command itself, in a home of its own with a Redis of its own, so it is everybody's first: nothing is kept from
before. Seconds of its steps are from its diary; processor seconds and the peak of resident memory are of the whole.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from contracts.nights import NightRecord, read_nights
from trainer.datasets.canonical import Dataset
from trainer.datasets.simulator import Sizes, write_demo

RECIPE = "adi+dsfm_dfei"
_AXES = ("users", "ads", "domains")


@dataclass(frozen=True)
class Measured:
    name: str
    rows: int
    record: NightRecord
    cpu_s: float
    peak_mib: float

    @property
    def seconds(self) -> dict[str, float]:
        assert self.record.seconds is not None
        return {**{one.name: one.seconds for one in self.record.steps}, "the whole night": self.record.seconds}


def night(name: str, data: Path, scratch: Path, recipe: str, test_from: str | None) -> Measured:
    """Raises BadInput with the night's last words when it fails."""
    home = scratch / f"home-{name}"
    command = [sys.executable, "-m", "deploy.cli", "nightly", "--data", str(data), "--recipe", recipe]
    command += ["--test-from", test_from] if test_from else []
    environment = {key: value for key, value in os.environ.items() if key != "MDREC_REDIS_URL"}
    log = scratch / f"{name}.log"
    with log.open("wb") as out:
        running = subprocess.Popen(command, env={**environment, "MDREC_HOME": str(home)}, stdout=out, stderr=out)
        _, status, used = os.wait4(running.pid, 0)  # of this night alone, its own children among it
    if status:
        raise BadInput(f"the night of {name} ended with {os.waitstatus_to_exitcode(status)}: {log.read_text()[-2000:]}")
    ((record,), _) = read_nights(home, 1)
    rows = int(Dataset.open(data).scan_events().select(pl.len()).collect().item())
    return Measured(name, rows, record, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def table(nights: list[Measured]) -> str:
    """A row a step. The last column, of two nights: times the first's seconds."""
    names = list(dict.fromkeys(name for one in nights for name in one.seconds))
    grown = len(nights) == 2
    lines = ["| step | " + " | ".join(f"{one.name}, s" for one in nights) + (" | times |" if grown else " |")]
    lines.append("|---|" + "---:|" * (len(nights) + grown))

    def row(name: str, values: list[float | None], digits: int = 1) -> str:
        cells = ["" if value is None else f"{value:,.{digits}f}" for value in values]
        if grown:
            first, second = values
            cells.append(f"{second / first:.1f}" if first and second else "")
        return f"| {name} | " + " | ".join(cells) + " |"

    lines += [row(name, [one.seconds.get(name) for one in nights]) for name in names]
    lines.append(row("processor seconds", [one.cpu_s for one in nights]))
    lines.append(row("peak of memory, MiB", [one.peak_mib for one in nights], 0))
    lines.append(row("rows", [float(one.rows) for one in nights], 0))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--scales", type=float, nargs="*", default=[], help="of the simulator's demo")
    for axis in _AXES:
        parser.add_argument(f"--{axis}", type=int, nargs="*", default=[], help="of the simulator's demo at scale 1")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--test-from")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch, found = Path(folder), []
        worlds = {f"scale {one:g}": Sizes(impressions=max(1, round(Sizes.impressions * one))) for one in given.scales}
        worlds |= {f"{one:,} {axis}": replace(Sizes(), **{axis: one}) for axis in _AXES for one in getattr(given, axis)}
        for name, sizes in worlds.items():
            write_demo(scratch / name, sizes=sizes)
            found.append(night(name, scratch / name, scratch, given.recipe, None))
        found += [night(one.name, one, scratch, given.recipe, given.test_from) for one in given.data]
    print(table(found))


if __name__ == "__main__":
    main()
