"""`mdrec ab plan|power|simulate`: what is decided before an experiment, and whether the statistics do what they say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy.home import events_directory, home

Key = Annotated[str, typer.Argument(help="the experiment's key")]


def plan(
    key: Key,
    file: Annotated[Path | None, typer.Argument(help="YAML with the plan; without it the declared one is shown")] = None,
) -> None:
    """Declare what decides an experiment: primary metric, guardrails, cap, least lift. It cannot be changed afterwards."""
    import yaml

    from abtest.plan import declare, load_plan, plan_of

    found = declare(home(), key, load_plan(file), datetime.now(UTC).date()) if file else plan_of(home(), key)
    typer.echo(yaml.safe_dump(found.model_dump(mode="json", exclude_none=True), sort_keys=False), nl=False)


def power(
    file: Annotated[Path | None, typer.Argument(help="YAML with the plan; without it the default plan")] = None,
    days: Annotated[int, typer.Option(min=1, help="how long the experiment would run")] = 7,
    coverage: Annotated[float, typer.Option(min=0, max=1, help="share of the users in it, split evenly between two arms")] = 1.0,
    domain: Annotated[str | None, typer.Option(help="one domain only")] = None,
) -> None:
    """The least lift that could be found in so many days, by metric, as the logged days tell."""
    import redis
    from rich.console import Console
    from rich.table import Table

    from abtest.forecast import forecast
    from abtest.plan import Plan, load_plan
    from abtest.stats import NotComputable
    from deploy.close_day import drain
    from deploy.redis_local import redis_url

    chosen = load_plan(file) if file else Plan()
    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        drain(client, home())
    found = forecast(events_directory(), chosen, days, coverage, domain)
    columns = ["metric", "value", "least lift found", "with CUPED"]
    columns += [] if chosen.least_lift is None else [f"power at {chosen.least_lift:+.1%}", "users it takes"]
    table = Table(
        *columns, title=f"{days} days, {found[0].users:,} users in two arms, power {chosen.power:.0%}", title_justify="left"
    )

    def cell(value: float | NotComputable, form: str) -> str:
        return f"({value.reason})" if isinstance(value, NotComputable) else format(value, form)

    for one in found:
        row = [one.metric, cell(one.value, ".4g"), cell(one.detectable, "+.1%"), cell(one.with_past, "+.1%")]
        row += [] if chosen.least_lift is None else [cell(one.power, ".0%"), cell(one.units, ",")]
        table.add_row(*row)
    Console().print(table)


def simulate(
    experiments: Annotated[int, typer.Option(min=1, help="how many of each kind")] = 2_000,
    lift: Annotated[float, typer.Option(help="planted on the click rate in the A/B part")] = 0.12,
    users: Annotated[int, typer.Option(min=100, help="of both arms")] = 3_000,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="also write the tables here as Markdown")] = None,
) -> None:
    """A/A, A/B and crashed experiments on simulated users: false alarms, coverage, power, split alarms."""
    from abtest.simulate import World
    from abtest.validate import predicted_power, validate
    from abtest.validation_table import tables
    from contracts.files import write_bytes

    nothing, planted, crash = World(users=users), World(users=users, lift=lift), World(users=users, crash=True)
    text = tables(
        validate(nothing, range(experiments), seed),
        validate(planted, range(experiments), seed + 1),
        validate(crash, range(experiments), seed + 2),
        predicted_power(planted, seed),
        nothing,
    )
    typer.echo(text)
    if out:
        write_bytes(out, text.encode())
