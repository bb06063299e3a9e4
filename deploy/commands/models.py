"""`mdrec attribute`, `mdrec evaluate`, `mdrec nightly`: from logs to measured models and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.home import home

if TYPE_CHECKING:
    from trainer.datasets.canonical import Dataset


def attribute(
    directory: Annotated[Path, typer.Argument(help="a canonical dataset")],
    seed: Annotated[int, typer.Option()] = 0,
    test_from: Annotated[str | None, typer.Option(help="ISO date or epoch milliseconds")] = None,
    plot: Annotated[Path | None, typer.Option(help="where to write the plot (PNG)")] = None,
) -> None:
    """Which features are domain-sensitive: Integrated Gradients and distribution distances, corrected for chance."""
    from rich.console import Console
    from rich.table import Column, Table

    from deploy.steps import Steps
    from trainer.attribution import plot as draw
    from trainer.attribution import select
    from trainer.datasets.canonical import Dataset
    from trainer.datasets.check import check
    from trainer.tables import Tables
    from trainer.train import sensitivity

    check(directory).raise_if_bad()
    dataset = Dataset.open(directory)
    steps = Steps(home() / "work", lambda line: typer.echo(line, err=True))
    facts = {"dataset": dataset.digest(), "test_from": _moment(test_from)}
    tables = Tables.open(steps.run("tables", facts, lambda path: _tabulate(dataset, path, test_from)))
    base = steps.run("attribution", {**facts, "seed": seed}, lambda path: sensitivity(tables, seed, path), resumable=True)
    found = sensitivity(tables, seed, base)
    chosen = select(found)
    names = (Column("feature", no_wrap=True), Column("kind", no_wrap=True))
    table = Table(*names, "DS", "by chance", "over chance", "rank", "memory")
    for one in sorted(found, key=lambda one: -one.divergence):
        mark = "yes" if one.name in chosen else ""
        table.add_row(one.name, one.kind, f"{one.raw:.4f}", f"{one.permuted:.4f}", f"{one.corrected:.4f}", str(one.rank), mark)
    Console().print(table)
    if plot:
        draw(found, plot)


def evaluate(
    directory: Annotated[Path | None, typer.Argument(help="a canonical dataset")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="repeat for several; a bare model name evaluates that half")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="rankers or retrievers: every model of that half; a model's name: it and all of its variants"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 .. N-1")] = 1,
    test_from: Annotated[str | None, typer.Option(help="ISO date or epoch milliseconds; test rows start here")] = None,
    score_domains: Annotated[str | None, typer.Option(help="the domains that count, as a,b,c; the others are reported")] = None,
    against: Annotated[str | None, typer.Option(help="the recipe others are compared with; default: the first")] = None,
    refreshed: Annotated[bool, typer.Option("--refreshed", help="count statistics anew before each day of the test")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="at most 2 epochs a model; the signature says so")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="models trained at once, each in one thread")] = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the result as JSON")] = None,
    report: Annotated[Path | None, typer.Option(help="write an HTML report with plots")] = None,
    plots: Annotated[Path | None, typer.Option(help="write the plots as PNG files into this directory")] = None,
    list_: Annotated[bool, typer.Option("--list", help="name every model and variant, then stop")] = False,
) -> None:
    """Train on the past, measure on what came after: every number per domain with its spread over seeds, every difference with
    its interval over users. Started again, it goes on where it was."""
    from contracts.errors import BadInput, WorkFailed
    from contracts.files import write_bytes
    from trainer import evaluate as evaluation
    from trainer import recipes

    if list_:
        for name in recipes.known():
            typer.echo(name)
        return
    named = [*(recipe or []), *(name for one in set_ or [] for name in evaluation.recipe_set(one))]
    if directory is None or not named:
        raise BadInput(
            "evaluate needs a dataset directory and at least one --recipe or --set", "mdrec evaluate --list names them"
        )
    result = evaluation.evaluate(
        directory,
        named,
        seeds=range(seeds),
        test_from=_moment(test_from),
        home=home(),
        score_domains=[one.strip() for one in score_domains.split(",")] if score_domains else [],
        against=against,
        refreshed=refreshed,
        quick=quick,
        jobs=jobs,
    )
    if json_out:
        write_bytes(json_out, json.dumps(result, indent=2, allow_nan=False).encode())
    if report:
        write_bytes(report, evaluation.to_html(result).encode())
    if plots:
        from trainer.plots import write_plots

        write_plots(result, plots)
    typer.echo(evaluation.to_markdown(result))
    if failed := result.get("failed"):
        raise WorkFailed(f"{len(failed)} trials failed: {', '.join(failed)}", "the same command tries them again, and only them")


def nightly(
    data: Annotated[Path, typer.Option(help="a canonical dataset")],
    recipe: Annotated[list[str] | None, typer.Option(help="repeat for several; default: the live ones")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    test_from: Annotated[str | None, typer.Option(help="ISO date or epoch milliseconds; gates are measured from here on")] = None,
) -> None:
    """One night: close the day, train, evaluate, gate, export, index, publish. Killed, it resumes; failed, nothing moves."""
    from deploy.nightly import nightly as run_night
    from deploy.redis_local import redis_url

    with redis_url(home()) as url:
        night = run_night(data, recipes=tuple(recipe or ()), home=home(), redis_url=url, seed=seed, test_from=_moment(test_from))
    typer.echo(night.summary())
    if night.failed:
        raise typer.Exit(1)


def _moment(given: str | None) -> str | int | None:
    """Digits are epoch milliseconds, anything else an ISO date."""
    return int(given) if given is not None and given.lstrip("-").isdigit() and len(given) > 8 else given


def _tabulate(dataset: Dataset, path: Path, test_from: str | None) -> None:
    from trainer.tables import Tables

    Tables.build(dataset, path, test_from=_moment(test_from))
