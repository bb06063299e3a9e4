"""Every bundle in the store with its gates, and what becomes of it: /admin/v1/bundles."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from contracts.aliases import Alias
from contracts.errors import BundleError
from contracts.manifest import DomainEntry, Gate, Manifest
from server.admin_write import OffLoop
from server.gateway import Gateway
from server.polling import IfNoneMatch, answers, polled


class StoredDomain(BaseModel):
    """bytes: of the domain's files; recall: of its index, measured against exact search."""

    domain: str
    ads: int
    index: str
    recall: float
    recall_gate: float
    bytes: int


class StoredBundle(BaseModel):
    """status: live: serves its recipe in this worker; previous: a rollback leads to it; refused: an alias names it and it was not
    taken, by `refused`; kept: neither. metrics: as `mdrec evaluate --json` writes them."""

    bundle_id: str
    recipe: str
    created_at: datetime
    status: Literal["live", "previous", "refused", "kept"]
    champion: bool
    refused: str | None
    dataset: str
    rows: int
    through: str | None
    retriever: str
    ranker: str | None
    bytes: int
    content_digest: str
    domains: list[StoredDomain]
    gates: list[Gate]
    metrics: dict[str, Any]
    step_seconds: dict[str, float]


class DamagedBundle(BaseModel):
    bundle_id: str
    why: str


class StoredBundles(BaseModel):
    """bundles: newest first; damaged: those whose manifest cannot be read."""

    bundles: list[StoredBundle]
    damaged: list[DamagedBundle]


def add(routes: APIRouter, gateway: Gateway, off_loop: OffLoop) -> None:
    @routes.get("/bundles", response_model=StoredBundles, responses=answers())
    async def bundles(if_none_match: IfNoneMatch = None) -> Response:
        """Every bundle: made when and of what, how large, which gates it passed, and whether it serves."""
        return await off_loop(lambda: polled(_bundles(gateway), if_none_match))


def _bundles(gateway: Gateway) -> StoredBundles:
    aliases = gateway.registry.aliases
    named = {recipe: found for recipe in aliases.recipes() if (found := aliases.get(recipe)) is not None}
    rows: list[StoredBundle] = []
    damaged: list[DamagedBundle] = []
    for bundle_id in reversed(aliases.bundle_ids()):
        try:
            rows.append(_row(gateway, named, Manifest.load(aliases.bundle_directory(bundle_id))))
        except BundleError as error:
            damaged.append(DamagedBundle(bundle_id=bundle_id, why=str(error)))
    return StoredBundles(bundles=rows, damaged=damaged)


def _row(gateway: Gateway, named: dict[str, Alias], manifest: Manifest) -> StoredBundle:
    live, refusal = gateway.registry.live, gateway.registry.refused.get(manifest.recipe)
    serving = [recipe for recipe, bundle in live.bundles.items() if bundle.bundle_id == manifest.bundle_id]
    refused = refusal.reason if refusal is not None and refusal.bundle_id == manifest.bundle_id else None
    previous = any(alias.previous == manifest.bundle_id for alias in named.values())
    return StoredBundle(
        bundle_id=manifest.bundle_id,
        recipe=manifest.recipe,
        created_at=datetime.fromisoformat(manifest.created_at),
        status="live" if serving else "refused" if refused is not None else "previous" if previous else "kept",
        champion=live.champion in serving,
        refused=refused,
        dataset=manifest.dataset.name,
        rows=manifest.dataset.rows,
        through=manifest.dataset.through,
        retriever=manifest.retriever.name,
        ranker=manifest.ranker.name if manifest.ranker else None,
        bytes=manifest.bytes,
        content_digest=manifest.content_digest,
        domains=[_domain(manifest, one) for one in manifest.domains],
        gates=manifest.gates,
        metrics=manifest.metrics,
        step_seconds=manifest.step_seconds,
    )


def _domain(manifest: Manifest, one: DomainEntry) -> StoredDomain:
    size = sum(entry.bytes for path, entry in manifest.files.items() if path.startswith(f"{one.directory}/"))
    return StoredDomain(
        domain=one.name,
        ads=one.ads,
        index=one.index.kind,
        recall=one.index.recall,
        recall_gate=one.index.recall_gate,
        bytes=size,
    )
