"""What is served: /v1/domains, /v1/bundles; and whether: /livez, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from contracts.errors import BundleError
from contracts.manifest import Manifest
from server import api, interleave
from server.bundle import Bundle
from server.gateway import Gateway


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter()
    registry = gateway.registry

    @routes.get("/v1/domains", response_model=api.DomainsAnswer, tags=["serving"])
    async def domains() -> Response:
        """Every domain that is answered, and by which bundles."""
        live = registry.live
        recipes = sorted(live.bundles, key=lambda recipe: (recipe != live.champion, recipe))
        found: dict[str, api.DomainInfo] = {}
        for recipe in recipes:
            bundle = live.bundles[recipe]
            for name, domain in bundle.domains.items():
                info = found.setdefault(name, api.DomainInfo(name, len(domain.ads), []))
                info.bundles.append(api.DomainBundle(recipe, bundle.bundle_id, len(domain.ads), domain.index_kind))
        return _json(api.DomainsAnswer(list(found.values())))

    @routes.get("/v1/bundles", response_model=api.BundlesAnswer, tags=["serving"])
    async def bundles() -> Response:
        """Every complete bundle in the store, oldest first, and which of them serve."""
        return _json(api.BundlesAnswer(await asyncio.to_thread(_bundles, gateway)))

    @routes.get("/livez", tags=["operations"])
    async def livez() -> dict[str, str]:
        """This process answers."""
        return {"status": "alive"}

    @routes.get("/readyz", tags=["operations"], responses={503: {"description": "some live recipe cannot answer"}})
    async def readyz() -> JSONResponse:
        """200 only when every domain of every live recipe can answer; what is loaded, and what was refused and why."""
        problems = registry.problems() + interleave.problems(gateway.experiments.definitions, registry.live)
        body = {
            "status": "unavailable" if problems else "ready",
            "problems": problems,
            "champion": registry.live.champion,
            "recipes": {recipe: _loaded(bundle) for recipe, bundle in registry.live.bundles.items()},
            "refused": {recipe: {"bundle_id": one.bundle_id, "reason": one.reason} for recipe, one in registry.refused.items()},
            "experiments_version": gateway.experiments.version,
        }
        return JSONResponse(body, 503 if problems else 200)

    @routes.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus text; with several workers, the sum over them."""
        gateway.metrics.bundle_age.set(registry.oldest_seconds())
        return Response(gateway.metrics.text(), media_type=gateway.metrics.content_type)

    return routes


def _loaded(bundle: Bundle) -> dict[str, Any]:
    ranker = bundle.manifest.ranker
    return {
        "bundle_id": bundle.bundle_id,
        "retriever": bundle.manifest.retriever.name,
        "ranker": ranker.name if ranker else None,
        "ranker_form": bundle.ranker_form.shown() if bundle.ranker_form else None,
        "execution_providers": bundle.providers,
        "golden_difference": bundle.golden_difference,
        "domains": {name: {"ads": len(one.ads), "index": one.index_kind} for name, one in bundle.domains.items()},
    }


def _bundles(gateway: Gateway) -> list[api.BundleInfo]:
    aliases, live = gateway.registry.aliases, gateway.registry.live
    serving = {bundle.bundle_id: recipe for recipe, bundle in live.bundles.items()}
    found = []
    for bundle_id in aliases.bundle_ids():
        try:
            manifest = Manifest.load(aliases.bundle_directory(bundle_id))
        except BundleError:  # refused bundles show in /readyz with the reason; this lists what could serve
            continue
        recipe = serving.get(bundle_id)
        found.append(
            api.BundleInfo(
                bundle_id=bundle_id,
                recipe=manifest.recipe,
                created_at=manifest.created_at,
                bytes=manifest.bytes,
                content_digest=manifest.content_digest,
                live=recipe is not None,
                champion=recipe is not None and recipe == live.champion,
                metrics=manifest.metrics,
            )
        )
    return found


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
