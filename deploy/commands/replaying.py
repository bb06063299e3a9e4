"""`mdrec ab replay`: what a recipe would have earned on the requests whose slates were drawn."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy.home import events_directory, home

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="day of the requests, UTC, inclusive")]


def replay(
    recipe: Annotated[str, typer.Argument(help="the recipe to evaluate; the bundle that serves it now answers")],
    temperature: Annotated[float, typer.Option(help="it would explore so much; 0.01 is close to its ranking")] = 0.5,
    among: Annotated[int, typer.Option(help="it would draw among its so many best ads")] = 20,
    places: Annotated[int, typer.Option(min=1, help="evaluate the first places of an answer; more is less certain")] = 3,
    bundle: Annotated[
        str | None, typer.Option(help="another bundle of it, e.g. an older one, that more requests came after")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="one domain only")] = None,
    since: Day = None,
    until: Day = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="write everything as JSON")] = None,
) -> None:
    """Estimate click rate and revenue of a recipe that has not served, from slates that arms with `explore` drew."""
    import polars as pl
    import redis
    from rich.console import Console
    from rich.progress import track

    from abtest.explore import Explore
    from abtest.explored import explored
    from contracts.aliases import Aliases
    from contracts.errors import BadInput
    from contracts.files import write_bytes
    from deploy.close_day import drain
    from deploy.redis_local import redis_url
    from deploy.replay import replay as replayed
    from deploy.replay_table import notes, table
    from server.bundle import Bundle
    from server.settings import Settings

    wanted = Explore.of({"explore": {"temperature": temperature, "among": among}})
    assert wanted is not None
    aliases = Aliases(home())
    alias = aliases.get(recipe)
    if bundle is None and alias is None:
        raise BadInput(f"no bundle serves recipe {recipe!r}", f"known: {', '.join(aliases.recipes()) or 'none yet'}")
    directory = aliases.bundle_directory(bundle or (alias.bundle_id if alias else ""))
    loaded = Bundle(directory, cache=home() / "kernels")
    if loaded.recipe != recipe:
        raise BadInput(f"bundle {loaded.bundle_id} is of recipe {loaded.recipe!r}, not {recipe!r}", "name its own recipe")
    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        drain(client, home())
        slates = explored(events_directory(), since.date() if since else None, until.date() if until else None)
        if domain is not None:
            slates = slates.filter(pl.col("domain") == domain)
        found = replayed(
            slates,
            loaded,
            client.get,
            wanted,
            places,
            Settings(home=home(), redis_url=url).retrieve_k,
            lambda requests: track(requests, "requests", transient=True),
        )
    if json_out:
        write_bytes(json_out, json.dumps(asdict(found), default=str, indent=2).encode())
    console = Console()
    for line in notes(found):
        console.print(line, markup=False, highlight=False)
    console.print(table(found))
