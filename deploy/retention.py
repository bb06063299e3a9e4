"""What a night leaves behind: the bundles worth keeping, and nothing of the others, on disk or in Redis."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import redis

from abtest.canary import bundles_named
from abtest.experiments import ExperimentStore
from contracts import keys
from contracts.aliases import Aliases
from contracts.manifest import Manifest

KEEP_BUNDLES = 3  # per recipe: the live one, the one before for rollback, one more to look back at
KEEP_WORK_SECONDS = 3 * 86_400  # steps nobody touched for three nights will not be resumed
_SCAN = 1_000


def retire(home: Path, client: redis.Redis, say: Callable[[str], None]) -> None:
    """Remove bundles beyond the newest KEEP_BUNDLES of each recipe, never one that an alias names or could roll back to,
    or that an arm or a shadow names; their Redis namespaces go first, so that no namespace outlives its bundle."""
    aliases = Aliases(home)
    definitions = ExperimentStore(client).read().definitions
    held: set[str | None] = {*bundles_named(definitions), *(one.bundle for one in definitions.shadows.values())}
    for alias in map(aliases.get, aliases.recipes()):
        if alias is not None:
            held |= {alias.bundle_id, alias.previous}
    by_recipe: dict[str, list[Manifest]] = defaultdict(list)
    for bundle_id in aliases.bundle_ids():
        manifest = Manifest.load(aliases.bundle_directory(bundle_id))
        by_recipe[manifest.recipe].append(manifest)
    for manifests in by_recipe.values():
        for manifest in manifests[:-KEEP_BUNDLES]:
            if manifest.bundle_id not in held:
                _drop_namespace(client, manifest.namespace)
                shutil.rmtree(aliases.bundle_directory(manifest.bundle_id))
                say(f"retired {manifest.bundle_id}")
    _drop_old_work(home / "work")


def _drop_namespace(client: redis.Redis, namespace: str) -> None:
    """`_meta` first: without it a namespace is not complete."""
    client.delete(keys.user_row_meta(namespace))
    batch: list[bytes] = []
    for key in client.scan_iter(match=keys.user_row_pattern(namespace), count=_SCAN):
        batch.append(key)
        if len(batch) == _SCAN:
            _unlink(client, batch)
    _unlink(client, batch)


def _unlink(client: redis.Redis, batch: list[bytes]) -> None:
    """One command a key, pipelined: on a cluster a command must not cross slots."""
    with client.pipeline(transaction=False) as pipe:
        for key in batch:
            pipe.unlink(key)
        pipe.execute()
    batch.clear()


def _drop_old_work(work: Path) -> None:
    oldest = time.time() - KEEP_WORK_SECONDS
    for step in work.glob("*-*"):
        if max((path.stat().st_mtime for path in [step, *step.glob("*")]), default=0.0) < oldest:
            shutil.rmtree(step)
