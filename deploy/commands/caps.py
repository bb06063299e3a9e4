"""`mdrec caps`: what users saw before a cap looked at it."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from contracts.errors import BadInput
from deploy.home import events_directory, home

app = typer.Typer(help="Caps on how often a user is shown an ad (operators set them at /admin/v1/caps).", no_args_is_help=True)


@app.command(epilog="Example: mdrec caps fill")
def fill() -> None:
    """Let the caps in force count what the ledger has of before: move the events stream there, then read it back."""
    import redis

    from abtest import caps_fill
    from abtest.experiments import ExperimentStore
    from deploy.close_day import drain
    from deploy.redis_local import redis_url

    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        active = {name: one for name, one in ExperimentStore(client).read().definitions.caps.items() if one.active}
        if not active:
            raise BadInput("no domain has a cap in force", "set one: PUT /admin/v1/caps/DOMAIN")
        drain(client, home())
        written = caps_fill.fill(events_directory(), client, active, datetime.now(UTC))
    typer.echo(f"{written:,} outcomes count towards the caps of {', '.join(sorted(active))}")
