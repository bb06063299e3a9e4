"""`mdrec attribute`, `mdrec evaluate`, `mdrec nightly`: from logs to measured models and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deploy.home import home


def attribute(
    directory: Annotated[Path, typer.Argument(help="a canonical dataset")],
    seed: Annotated[int, typer.Option()] = 0,
    test_from: Annotated[str | None, typer.Option(help="ISO date or epoch milliseconds")] = None,
    plot: Annotated[Path | None, typer.Option(help="where to write the plot (PNG)")] = None,
) -> None:
    """Which features are domain-sensitive: Integrated Gradients and distribution distances, corrected for chance."""
    from deploy.nightly import attribute_dataset

    typer.echo(attribute_dataset(directory, home(), seed=seed, test_from=_moment(test_from), plot=plot))


def evaluate(
    directory: Annotated[Path | None, typer.Argument(help="a canonical dataset")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="repeat for several; a bare model name evaluates that half")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 .. N-1")] = 1,
    test_from: Annotated[str | None, typer.Option(help="ISO date or epoch milliseconds; test rows start here")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the result as JSON")] = None,
    report: Annotated[Path | None, typer.Option(help="write an HTML report with plots")] = None,
    list_: Annotated[bool, typer.Option("--list", help="name every model and variant, then stop")] = False,
) -> None:
    """Train on the past, measure on what came after; every number per domain, with its spread over seeds."""
    from contracts.errors import BadInput
    from contracts.files import write_bytes
    from trainer import evaluate as evaluation
    from trainer import recipes

    if list_:
        for name in recipes.known():
            typer.echo(name)
        return
    if directory is None or not recipe:
        raise BadInput("evaluate needs a dataset directory and at least one --recipe", "mdrec evaluate --list names them")
    result = evaluation.evaluate(directory, recipe, seeds=range(seeds), test_from=_moment(test_from), home=home())
    if json_out:
        write_bytes(json_out, json.dumps(result, indent=2).encode())
    if report:
        write_bytes(report, evaluation.to_html(result).encode())
    typer.echo(evaluation.to_markdown(result))


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
