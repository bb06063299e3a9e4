"""Are off-policy estimates right? `python -m loadtests.offpolicy --open-bandit DIR` prints the tables of docs/experiments.md.

DIR holds Open Bandit's `random/men/men.csv.gz` and `bts/men/men.csv.gz`; without it only the simulation runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

from abtest.estimate import Estimate, Result
from abtest.stats import NotComputable
from abtest.validate_slates import ESTIMATES, SCENARIOS, Coverage, cover
from loadtests.open_bandit import both_ways

_NAMES = {"ips": "IPS", "snips": "SNIPS", "doubly_robust": "doubly robust"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open-bandit", type=Path, help="directory of the data set")
    parser.add_argument("--repetitions", type=int, default=2_000, help="simulated logs a scenario")
    given = parser.parse_args()
    if given.open_bandit is not None:
        print("\n".join(_open_bandit(given.open_bandit)), flush=True)
    for line in _simulated(given.repetitions):
        print(line, flush=True)


def _open_bandit(directory: Path) -> Iterator[str]:
    yield "| from | estimate | value x 1000 (95%) | truth x 1000 (95%) | relative error | covers | gap in errors | answer |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in both_ways(directory):
        assert isinstance(row.free, Estimate)
        covers = "yes" if row.free.low <= row.truth.value <= row.free.high else "no"
        answer = f"refused: {row.limited.reason}" if isinstance(row.limited, NotComputable) else "given"
        cells = (
            row.direction, _NAMES[row.name], _thousandths(row.free), _thousandths(row.truth),
            f"{row.free.value / row.truth.value - 1:+.0%}", covers, f"{row.gap:+.1f}", answer,
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    yield ""


def _thousandths(one: Result) -> str:
    assert isinstance(one, Estimate)
    return f"{1000 * one.value:.2f} ({1000 * one.low:.2f} to {1000 * one.high:.2f})"


def _simulated(repetitions: int) -> Iterator[str]:
    names = [_NAMES[name] for name in ESTIMATES]
    yield f"| recipes | users | effective users (share left) | effective with a click | refused | {' | '.join(names)} |"
    yield f"|{'---|' * (5 + len(names))}"
    for title, world, seed, limits in SCENARIOS:
        found = cover(world, range(repetitions), seed, limits)
        cells = [
            f"{title}: {world.logged:g} to {world.evaluated:g}, apart {world.apart:g}",
            f"{world.users:,}",
            f"{found.effective_users / found.logs:,.0f} ({found.share_left / found.logs:.0%})",
            f"{found.effective_rewarded / found.logs:,.0f}",
            f"{1 - found.computed / found.logs:.1%}",
            *(_cell(found, name) for name in ESTIMATES),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"Cells: 95% intervals that hold the truth / mean error / typical error / half width. {repetitions:,} logs each: "
    yield f"a rate of 95% has a standard error of {100 * math.sqrt(0.95 * 0.05 / repetitions):.1f} points."


def _cell(found: Coverage, name: str) -> str:
    if not found.computed:
        return "-"
    typical = math.sqrt(found.mean(found.squared, name))
    return f"{found.rate(name):.1%} / {found.mean(found.error, name):+.1%} / {typical:.0%} / {found.mean(found.width, name):.0%}"


if __name__ == "__main__":
    main()
