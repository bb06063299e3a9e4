"""`mdrec bundle`: what is on disk, what serves, and the way back."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from contracts.aliases import CHAMPION, Aliases
from contracts.manifest import Manifest
from contracts.schema import FeatureSchema
from deploy.home import home
from server.bundle import RANKER
from server.fused.chain import choose
from server.inference import Graph

app = typer.Typer(help="List, inspect, verify and switch bundles.", no_args_is_help=True)


@app.command(name="list", epilog="Example: mdrec bundle list")
def list_() -> None:
    """Every complete bundle, oldest first, and the recipe it serves."""
    aliases = Aliases(home())
    serving = {alias.bundle_id: alias.recipe for alias in map(aliases.get, aliases.recipes()) if alias}
    table = Table(Column("bundle", overflow="fold", no_wrap=False), "recipe", "made", "domains", "ads", "MiB", "serves")
    for bundle_id in aliases.bundle_ids():
        manifest = _manifest(bundle_id)
        recipe = serving.get(bundle_id)
        star = " (champion)" if recipe and recipe == aliases.champion() else ""
        ads = sum(one.ads for one in manifest.domains)
        row = (bundle_id, manifest.recipe, manifest.created_at, str(len(manifest.domains)), f"{ads:,}")
        table.add_row(*row, f"{manifest.bytes / 2**20:.1f}", f"{recipe}{star}" if recipe else "")
    Console().print(table)


@app.command(epilog="Example: mdrec bundle show adi+dsfm-20220504-1a2b3c4d")
def show(bundle_id: str) -> None:
    """The manifest without its file list: indices, their recall and what they were chosen from; gates, metrics, step times; and
    how a gateway on this machine computes the ranker."""
    manifest = _manifest(bundle_id)
    body = manifest.model_dump(mode="json", exclude={"files"})
    if manifest.ranker is not None:
        directory = Aliases(home()).bundle_directory(bundle_id)
        graph = Graph(directory / f"{RANKER}.onnx", manifest.ranker.inputs, "p_click", "cpu")
        _, form = choose(graph, FeatureSchema.load(directory / "schema"), home() / "kernels")
        body["ranker_form"] = form.shown()
    Console().print_json(json.dumps(body))


@app.command(epilog="Example: mdrec bundle verify adi+dsfm-20220504-1a2b3c4d")
def verify(bundle_id: str) -> None:
    """Compare every file with the digest in the manifest."""
    manifest = _manifest(bundle_id)
    manifest.verify(Aliases(home()).bundle_directory(bundle_id))
    typer.echo(
        f"{bundle_id}: {len(manifest.files)} files, {manifest.bytes:,} bytes, content {manifest.content_digest[:16]}, intact"
    )


@app.command(epilog="Example: mdrec bundle diff OLD NEW")
def diff(old: str, new: str) -> None:
    """What differs between two bundles: settings, metrics, files."""
    before, after = _manifest(old), _manifest(new)
    left, right = _flat(before), _flat(after)
    table = Table("field", old, new)
    for key in sorted(left.keys() | right.keys()):
        if left.get(key) != right.get(key):
            table.add_row(key, str(left.get(key, "-")), str(right.get(key, "-")))
    Console().print(table)
    changed = [name for name in before.files.keys() | after.files.keys() if before.files.get(name) != after.files.get(name)]
    typer.echo(f"{len(changed)} of {len(after.files)} files differ")


@app.command(epilog="Example: mdrec bundle alias adi+dsfm adi+dsfm-20220504-1a2b3c4d, or: mdrec bundle alias champion adi+dsfm")
def alias(
    name: Annotated[str, typer.Argument(help="a recipe, or `champion`")],
    target: Annotated[str, typer.Argument(help="a bundle id, or for `champion` a recipe")],
) -> None:
    """Point a recipe at a bundle, or name the champion. Running gateways follow."""
    aliases = Aliases(home())
    if name == CHAMPION:
        aliases.crown(target)
    else:
        aliases.move(name, target)
    typer.echo(f"{name} -> {target}")


@app.command(epilog="Example: mdrec bundle rollback adi+dsfm")
def rollback(recipe: str) -> None:
    """Point a recipe back at the bundle it served before."""
    now = Aliases(home()).rollback(recipe)
    typer.echo(f"{recipe} -> {now.bundle_id}")


def _manifest(bundle_id: str) -> Manifest:
    return Manifest.load(Aliases(home()).bundle_directory(bundle_id))


def _flat(manifest: Manifest) -> dict[str, Any]:
    """Dotted paths of everything but the file list."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), one)
        else:
            flat[prefix] = value

    body = manifest.model_dump(mode="json", exclude={"files", "domains"})
    walk("", body | {"domains": {one.name: one.model_dump(mode="json") for one in manifest.domains}})
    return flat
