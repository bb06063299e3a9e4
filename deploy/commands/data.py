"""`mdrec data`: make, import and check canonical datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make, import and check datasets.", no_args_is_help=True)


@app.command(epilog="Example: mdrec data synth --to demo-data")
def synth(
    to: Annotated[Path, typer.Option("--to", help="directory to write")],
    world: Annotated[str, typer.Option(help="demo or checkerboard")] = "demo",
    seed: Annotated[int, typer.Option(help="the same seed writes the same bytes")] = 0,
    scale: Annotated[float, typer.Option(help="1 is the demo's size; 10 has ten times its impressions")] = 1.0,
    domains: Annotated[int, typer.Option(help="of the demo; the k-th beyond four has 1/k of the first's traffic")] = 4,
    decoys: Annotated[int | None, typer.Option(help="values of the demo's random ids, instead of thousands")] = None,
) -> None:
    """Write a simulated world whose truth is known."""
    from trainer import datasets

    written = datasets.synth(world, to, seed, scale, domains, decoys)  # type: ignore[arg-type]  # it names the known worlds
    for line in written:
        typer.echo(line)
    check(to)


@app.command(name="import", epilog="Example: mdrec data import kuairand --from KuaiRand-Pure/data --to kuairand")
def import_(
    adapter: Annotated[str, typer.Argument(help="kuairand, xmrec, edda_aliccp, edda_aliad, aliccp or open_bandit")],
    source: Annotated[Path, typer.Option("--from", help="directory with the source's own files")],
    to: Annotated[Path, typer.Option("--to", help="directory to write")],
    domain_by: Annotated[str | None, typer.Option(help="kuairand: a user column whose segments split each tab")] = None,
) -> None:
    """Write a public dataset's files in canonical form."""
    from contracts.errors import BadInput
    from trainer.datasets import ADAPTERS

    if adapter not in ADAPTERS:
        raise BadInput(f"unknown adapter {adapter!r}", f"known: {', '.join(sorted(ADAPTERS))}")
    if domain_by is not None and adapter != "kuairand":
        raise BadInput("--domain-by is kuairand's", f"{adapter} brings its own domains")
    options = {} if domain_by is None else {"domain_by": domain_by}
    for line in ADAPTERS[adapter](source, to, **options):
        typer.echo(line)
    check(to)


@app.command(epilog="Example: mdrec data check my-logs")
def check(directory: Annotated[Path, typer.Argument(help="a directory with dataset.yaml")]) -> None:
    """Say what a dataset holds, or exactly what is wrong with it."""
    from trainer.datasets.check import check as look

    report = look(directory)
    typer.echo(str(report))
    report.raise_if_bad()
