"""`mdrec serve`, `mdrec run`, `mdrec explain`, `mdrec features`: the running system."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from contracts.errors import BadInput, WorkFailed
from deploy.commands.ready import announce_when_ready
from deploy.home import demo_dataset, home

features_app = typer.Typer(help="Look into the feature store.", no_args_is_help=True)


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on  [MDREC_HOST, 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on  [MDREC_PORT, 8080]")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; one a core  [MDREC_WORKERS, 1]", min=1)] = None,
) -> None:
    """Serve the live bundles over HTTP until Ctrl-C."""
    from contracts.aliases import Aliases
    from deploy.redis_local import redis_url

    if not Aliases(home()).recipes():
        raise BadInput(f"no bundle is live under {home()}", "run `mdrec nightly --data DIR` first")
    with redis_url(home()) as url:
        _serve(url, host=host, port=port, workers=workers)


def run(
    port: Annotated[int, typer.Option(help="port to listen on")] = 8080,
    workers: Annotated[int, typer.Option(help="processes; one a core", min=1)] = 1,
) -> None:
    """Everything, from nothing: demo data, one night, the gateway. A second start reuses what is there."""
    from contracts.aliases import Aliases
    from deploy.redis_local import redis_url

    with redis_url(home()) as url:
        if not Aliases(home()).recipes():
            _first_night(url)
        _serve(url, host=None, port=port, workers=workers)


def explain(request_id: Annotated[str, typer.Argument(help="request_id of an answer asked with explain: true")]) -> None:
    """The decision record of one request: every candidate, the stage and the reason at which it left."""
    import redis
    from rich.console import Console

    from contracts import keys
    from deploy.redis_local import redis_url

    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        record = client.get(keys.request_record(request_id))
    if record is None or json.loads(record).get("kind") == "facts":  # what live fold-in keeps is no decision record
        raise BadInput(f"no decision record for request {request_id!r}", "ask with explain: true; records expire")
    Console().print_json(record.decode())


@features_app.command(name="show", epilog="Example: mdrec features show 17")
def show(user_id: str) -> None:
    """A user's packed row in every live bundle: counts by domain, vector norms, encoded features."""
    import numpy as np
    import redis

    from contracts import keys
    from contracts.aliases import Aliases
    from contracts.manifest import Manifest
    from contracts.user_row import UserRow
    from deploy.redis_local import redis_url

    aliases = Aliases(home())
    with redis_url(home()) as url, redis.Redis.from_url(url) as client:
        for alias in map(aliases.get, aliases.recipes()):
            if alias is None:
                raise WorkFailed("an alias vanished while it was read", "run the command again")
            manifest = Manifest.load(aliases.bundle_directory(alias.bundle_id))
            packed = client.get(keys.user_row(manifest.namespace, user_id))
            if packed is None:
                typer.echo(f"{alias.recipe}: no row for user {user_id!r}: served as a stranger (n = 0)")
                continue
            row = UserRow.unpack(packed)
            names = [one.name for one in manifest.domains]
            norms = np.linalg.norm(row.vectors, axis=1)
            by_domain = {
                name: {"n": round(float(n), 3), "vector_norm": round(float(norm), 4)}
                for name, n, norm in zip(names, row.counts, norms, strict=True)
            }
            body = {"recipe": alias.recipe, "bytes": len(packed), "domains": by_domain, "codes": row.codes.tolist()}
            typer.echo(json.dumps(body))


def settings_help() -> str:
    """One line a setting of the gateway, for `mdrec serve --help`."""
    from server.settings import Settings

    fields = Settings.model_fields.items()
    lines = [f"MDREC_{name.upper()}  {one.description} (default {one.default})" for name, one in fields]
    return "Example: mdrec serve --workers 2\n\nSettings, all from the environment:\n\n" + "\n\n".join(lines)


def _first_night(url: str) -> None:
    from deploy.nightly import nightly
    from trainer import datasets

    data = demo_dataset()
    if not (data / "dataset.yaml").exists():
        datasets.synth("demo", data, seed=0)
    night = nightly(data, recipes=(), home=home(), redis_url=url)
    if night.failed:
        raise WorkFailed(night.summary(), "the step's own message is above")


def _serve(url: str, **given: str | int | None) -> None:
    from server.app import serve as serve_gateway
    from server.settings import Settings

    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = Settings(home=home(), redis_url=url, **chosen)
    announce_when_ready(settings.host, settings.port)
    serve_gateway(settings)
