"""Operators: /admin/v1, behind `Authorization: Bearer` with an operator's token.

Every write is on record in the `exp:audit` stream: experiment changes by their store, those of aliases and ads in the same
shape. Files and Redis are read in a thread, away from the loop that answers users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import redis
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from abtest.experiments import ExperimentStore, VersionConflict
from contracts.errors import WorkFailed
from server import admin_added, admin_ads, admin_caps, admin_experiments, admin_promotion, admin_trials, admin_watch
from server.admin_ads import IfMatch
from server.admin_write import Writer
from server.errors import Problem, overloaded
from server.gateway import Gateway
from server.openapi import problems
from server.operators import Operator, guard

T = TypeVar("T")
Json = dict[str, Any]

_TIMEOUT_SECONDS = 5.0


class MoveAlias(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bundle_id: str
    why: str = ""


class Crown(BaseModel):
    model_config = ConfigDict(extra="forbid")

    recipe: str
    why: str = ""


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(
        prefix="/admin/v1",
        tags=["admin"],
        dependencies=[Depends(guard(gateway.settings))],
        responses=problems(401, 403, 503),
    )
    aliases = gateway.registry.aliases
    client = redis.Redis.from_url(
        gateway.settings.redis_url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    )
    store = ExperimentStore(client, aliases.recipes)

    async def off_loop(work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except redis.RedisError as error:
            raise overloaded("redis-gone", f"Redis is unreachable: {error}", gateway.settings.retry_after_seconds) from None
        except VersionConflict as error:
            raise Problem(412, "version-conflict", str(error)) from None
        except WorkFailed as error:
            raise Problem(503, "audit", str(error)) from None

    async def change_alias(who: str, why: str, path: str, change: Callable[[], tuple[Any, Any]]) -> None:
        """Apply, put on record, and let this worker look at once; the others follow at their next look."""

        def work() -> None:
            before, after = change()
            store.note(who=who, why=why, diff={path: [before, after]})

        await off_loop(work)
        gateway.background(gateway.registry.refresh(), "swap")

    async def record(who: str, why: str, diff: dict[str, list[Any]]) -> None:
        await off_loop(lambda: store.note(who=who, why=why, diff=diff))

    write = Writer(gateway, store, off_loop)
    admin_experiments.add(routes, store, off_loop, write)
    admin_promotion.add(routes, gateway, store, off_loop)
    admin_watch.add(routes, gateway, store, off_loop)
    admin_trials.add(routes, gateway, client, store, off_loop, write)
    admin_caps.add(routes, gateway, store, off_loop, write)
    admin_ads.add(routes, gateway, record)
    admin_added.add(routes, gateway, record)

    def look_up(recipe: str) -> Json | None:
        found = aliases.get(recipe)
        return asdict(found) if found is not None else None

    @routes.get("/audit")
    async def audit(count: int = 100) -> list[Json]:
        """Latest changes first."""
        return [asdict(one) for one in await off_loop(lambda: store.history(min(max(count, 1), 1000)))]

    @routes.get("/aliases")
    async def read_aliases() -> Json:
        """Which bundle each recipe serves, and which recipe is champion."""
        recipes = await off_loop(lambda: [look_up(recipe) for recipe in aliases.recipes()])
        return {"champion": aliases.champion(), "aliases": recipes}

    @routes.put("/aliases/{recipe}", responses=problems(412, 422))
    async def move_alias(
        recipe: str,
        body: MoveAlias,
        who: Operator,
        if_match: IfMatch = None,
    ) -> Json | None:
        """Let another bundle serve a recipe. `If-Match` may name the bundle that is expected to serve now."""

        def move() -> tuple[str | None, str]:
            now = aliases.get(recipe)
            serving = now.bundle_id if now else None
            if if_match is not None and if_match.strip('"') != (serving or ""):
                raise Problem(412, "version-conflict", f"recipe {recipe!r} serves {serving!r}, not {if_match}")
            return serving, aliases.move(recipe, body.bundle_id).bundle_id

        await change_alias(who, body.why, f"aliases.{recipe}", move)
        return look_up(recipe)

    @routes.post("/aliases/{recipe}/rollback", responses=problems(422))
    async def roll_back(recipe: str, who: Operator) -> Json | None:
        """Back to the bundle that served the recipe before."""

        def move() -> tuple[str | None, str]:
            now = aliases.get(recipe)
            return now.bundle_id if now else None, aliases.rollback(recipe).bundle_id

        await change_alias(who, "rollback", f"aliases.{recipe}", move)
        return look_up(recipe)

    @routes.put("/champion", responses=problems(422))
    async def crown(body: Crown, who: Operator) -> Json:
        """Make a recipe champion: it answers outside every experiment."""

        def move() -> tuple[str | None, str]:
            before = aliases.champion()
            aliases.crown(body.recipe)
            return before, body.recipe

        await change_alias(who, body.why, "champion", move)
        return {"champion": body.recipe}

    return routes
