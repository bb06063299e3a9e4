"""`mdrec collect`: the events stream to the ledger, all day, so that Redis holds minutes of it and not days."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from deploy.home import home


def collect(
    every: Annotated[float, typer.Option(min=1, help="seconds between two rounds; each leaves a file a day and kind")] = 300.0,
    once: Annotated[bool, typer.Option("--once", help="one round, then stop")] = False,
) -> None:
    """Move answered requests and their outcomes from Redis to MDREC_HOME/events until Ctrl-C. Killed at any moment it loses
    nothing; while Redis is away it waits. Of running canaries it says what the ledger says."""
    import redis

    from deploy.canaries import judge_canaries
    from deploy.close_day import drain
    from deploy.redis_local import redis_url

    stopped = threading.Event()
    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        if not once:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopped.set())
        while not stopped.is_set():
            try:
                moved = drain(client, home())
                judge_canaries(home(), client, typer.echo)
            except redis.ConnectionError as error:
                if once:
                    raise
                typer.echo(f"Redis is away: {error}", err=True)
            else:
                if moved.batches or once:
                    rejected = f", {moved.rejected} that are no events put aside" if moved.rejected else ""
                    typer.echo(f"{moved.exposures:,} answers and {moved.feedback:,} outcomes moved{rejected}")
            if once:
                return
            stopped.wait(every)
