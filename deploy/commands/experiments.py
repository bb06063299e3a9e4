"""`mdrec ab`: define, ramp, stop and read experiments. Every write is versioned and on record."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.home import home

if TYPE_CHECKING:
    from abtest.definitions import Definitions
    from abtest.experiments import ExperimentStore

app = typer.Typer(help="Define, ramp, stop and read experiments.", no_args_is_help=True)
Key = Annotated[str, typer.Argument(help="the experiment's key")]
Why = Annotated[str, typer.Option(help="goes into the audit record")]


@app.command(name="list", epilog="Example: mdrec ab list")
def list_() -> None:
    """Every experiment, its arms and how much traffic each has."""
    from rich.console import Console
    from rich.table import Table

    from abtest.definitions import recipe_shown

    with _store() as store:
        now = store.read()
    table = Table("experiment", "status", "arm", "recipe", "share")
    for key, rule in now.definitions.experiments().items():
        status = rule.status if rule.active else "paused"
        for arm, value, (start, end) in zip(rule.arms, rule.variations, rule.spans(), strict=True):
            table.add_row(key, status, arm, recipe_shown(value) or "-", f"{end - start:.1%}")
    Console().print(table)
    typer.echo(f"version {now.version}")


@app.command(epilog="Example: mdrec ab show ranker")
def show(key: Key) -> None:
    """One experiment's definition, and the latest changes to all of them."""
    with _store() as store:
        rule, history = store.read().definitions.experiment(key), store.history(10)
    typer.echo(rule.model_dump_json(exclude_unset=True, indent=2))
    for change in history:
        typer.echo(f"version {change.version} by {change.who}: {change.why or '-'} {json.dumps(change.diff)}")


@app.command(epilog="Example: mdrec ab create experiments.yaml --why 'DSFM against the shared DNN'")
def create(file: Annotated[Path, typer.Argument(help="YAML or JSON in GrowthBook's feature form")], why: Why = "") -> None:
    """Load an experiments file: its features replace those of the same name, the others stay."""
    from abtest.experiments import load_file

    given = load_file(file)
    _change(lambda now: now.model_copy(update={"features": {**now.features, **given.features}}), why)


@app.command(epilog="Example: mdrec ab ramp ranker --coverage 0.5")
def ramp(
    key: Key,
    coverage: Annotated[float | None, typer.Option(help="share of all units in the experiment")] = None,
    share: Annotated[list[float] | None, typer.Option(help="share of all units, one for each arm in order")] = None,
    why: Why = "",
) -> None:
    """Give an experiment more traffic; no unit changes arms."""
    from abtest.ramp import ramp as ramped
    from contracts.errors import BadInput

    if coverage is None and not share:
        raise BadInput("ramp needs --coverage or one --share per arm", "mdrec ab ramp --help")
    _change(lambda now: ramped(now, key, coverage, share or None), why)


@app.command(epilog="Example: mdrec ab pause ranker")
def pause(key: Key, resume: Annotated[bool, typer.Option("--resume", help="bring it back")] = False, why: Why = "") -> None:
    """Switch an experiment off at once: everybody gets the champion. --resume brings back the same arms."""
    from abtest import actions

    _change(lambda now: actions.resume(now, key) if resume else actions.pause(now, key), why)


@app.command(epilog="Example: mdrec ab kill")
def kill(
    restore: Annotated[bool, typer.Option("--restore", help="experiments back as they were")] = False, why: Why = ""
) -> None:
    """The switch over all experiments: everybody gets the champion, in every gateway, at once."""
    from abtest import actions

    _change(lambda now: actions.kill(now, not restore), why)


@app.command(epilog="Example: mdrec ab start ranker")
def start(key: Key, why: Why = "") -> None:
    """Let a draft take its units in."""
    from abtest import actions

    _change(lambda now: actions.start(now, key), why)


@app.command(epilog="Example: mdrec ab stop ranker --release challenger")
def stop(
    key: Key,
    release: Annotated[str | None, typer.Option(help="the arm everybody it targets gets from now on; else the champion")] = None,
    why: Why = "",
) -> None:
    """End an experiment. Its definition and its ledger stay."""
    from abtest import actions

    _change(lambda now: actions.stop(now, key, release), why)


@app.command(epilog="Example: mdrec ab report ranker")
def report(
    key: Key,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the report as JSON")] = None,
) -> None:
    """Every metric per arm and domain with intervals, whose clicks an interleaving arm drew, and whether the split is sound; the
    last line is advice."""
    import redis
    from rich.console import Console

    from abtest import render, render_preference
    from abtest.promote import decide
    from contracts.files import write_bytes
    from deploy.close_day import drain
    from deploy.experiments_report import current_preferences, current_report
    from deploy.redis_local import redis_url

    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        drain(client, home())
        result = current_report(home(), client, key)
        preferences = current_preferences(home(), client, key)
    if json_out:
        body = asdict(result) | ({"interleaved": [asdict(one) for one in preferences]} if preferences else {})
        write_bytes(json_out, json.dumps(body, default=str, indent=2).encode())
    console = Console()
    for line in render.notes(result):
        console.print(line, markup=False)
    for table in render.to_tables(result):
        console.print(table)
    for one in preferences:
        for line in render_preference.notes(one):
            console.print(line, markup=False)
        console.print(render_preference.to_table(one))
    decision = decide(result)
    typer.echo(f"{decision.action}: {'; '.join(decision.reasons)}")


@app.command(epilog="Example: mdrec ab apply ranker --why 'four weeks, all guardrails pass'")
def apply(
    key: Key,
    arm: Annotated[str | None, typer.Option(help="promote this arm whatever the report says; --why must say the reason")] = None,
    why: Why = "",
) -> None:
    """Do what the report advises: promote (everybody gets the arm), roll_back (the experiment stops) or hold (nothing)."""
    import redis

    from abtest import actions
    from abtest.experiments import ExperimentStore
    from abtest.promote import Decision, decide
    from abtest.promotion import Promoter
    from contracts.errors import BadInput
    from deploy.close_day import drain
    from deploy.experiments_report import current_report
    from deploy.redis_local import redis_url

    if arm and not why:
        raise BadInput("--arm goes over the report's head and needs --why", "say what the report cannot know")
    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        store, who = ExperimentStore(client), getpass.getuser()
        version = store.read().version
        if arm:
            decision, reason = Decision("promote", arm, []), why
        else:
            drain(client, home())
            decision = decide(current_report(home(), client, key))
            reason = "; ".join(filter(None, [why, *decision.reasons]))
        typer.echo(f"{decision.action}: {reason}")
        if decision.action == "promote":
            done, _ = Promoter(store, home()).promote(key, str(decision.arm), who=who, why=reason, expected_version=version)
            gets = f"champion is {done.champion}, was {done.before}" if done.champion else f"all whom it targets get {done.arm!r}"
            typer.echo(f"{gets}; `mdrec ab revert {key}` takes it back")
        elif decision.action == "roll_back":
            store.change(lambda now: actions.stop(now, key), who=who, why=reason, expected_version=version)
            typer.echo(f"experiment {key} is stopped, everybody gets the champion")


@app.command(epilog="Example: mdrec ab revert ranker --why 'complaints'")
def revert(key: Key, why: Why = "") -> None:
    """Take a promotion back: the champion is the one before, and the experiment runs again with the same arms."""
    from abtest.promotion import Promoter

    with _store() as store:
        done, after = Promoter(store, home()).revert(key, who=getpass.getuser(), why=why)
    typer.echo(f"version {after.version}: {key} runs again" + (f", champion is {done.before}" if done.champion else ""))


def _change(amend: Callable[[Definitions], Definitions], why: str) -> None:
    with _store() as store:
        after = store.change(amend, who=getpass.getuser(), why=why)
    typer.echo(f"version {after.version}; running gateways follow at once")


@contextmanager
def _store() -> Iterator[ExperimentStore]:
    import redis

    from abtest.experiments import ExperimentStore
    from contracts.aliases import Aliases
    from deploy.redis_local import redis_url

    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        yield ExperimentStore(client, Aliases(home()).recipes)
