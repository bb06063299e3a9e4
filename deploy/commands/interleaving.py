"""`mdrec ab simulate-interleaving`: how much an interleaving saves, and whether it favours anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_WIDE = 10_000  # users of a draw from which the needs are told
_SMALL = 100  # users of an experiment between equals


def simulate_interleaving(
    experiments: Annotated[int, typer.Option(min=20, help="between equal rankers; a tenth of it between unequal ones")] = 2_000,
    draws: Annotated[int, typer.Option(min=1, help="of the users, for the spread of what is needed")] = 10,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="also write the tables here as Markdown")] = None,
) -> None:
    """Two rankers of unequal sight on simulated users: users that interleaving and a split need for a power of 80%, the power
    at just so many, and how often equal rankers are called different."""
    from dataclasses import replace

    from abtest.interleaving_table import needed_table, rates_table
    from abtest.simulate import World
    from abtest.simulate_interleaving import Rankers
    from abtest.validate_interleaving import interleavings, needed, splits, swapped
    from contracts.files import write_bytes

    world, rankers = World(users=_WIDE, ads=10), Rankers()
    needs = {
        f"{ads} ads, kinship {kinship}": [
            needed(replace(world, ads=ads), replace(rankers, kinship=kinship), seed + draw) for draw in range(draws)
        ]
        for ads in (10, 3)
        for kinship in (0.9, 0.5)
    }
    first = needs["10 ads, kinship 0.9"]
    split, ours = (round(sum(getattr(one, name) for one in first) / draws) for name in ("split", "interleaved"))
    few, small = range(max(experiments // 10, 2)), replace(world, users=_SMALL)
    unequal = replace(world, users=ours)
    equal = Rankers(sight=(0.5, 0.5), kinship=0.5)
    rates = {
        "equal rankers": interleavings(small, equal, range(experiments), seed + 1),
        "same ads backwards, clicks blind to ads": interleavings(
            small, replace(equal, spread=0.0, reverse=True), range(experiments), seed + 2
        ),
        f"the second is better, {ours:,} users": interleavings(unequal, rankers, few, seed + 3),
        f"the first is better, {ours:,} users": interleavings(unequal, swapped(rankers), few, seed + 4),
    }
    some = range(max(experiments // 40, 2))
    power = splits(replace(world, users=split), rankers, some, seed + 5)
    text = "\n\n".join(
        [
            needed_table(needs, world.days * sum(world.visits)),
            rates_table(rates),
            f"A split of {split:,} users finds the better one in {power:.0%} of {len(some)} experiments.\n",
        ]
    )
    typer.echo(text)
    if out:
        write_bytes(out, text.encode())
