"""Operators: /admin/v1, behind `Authorization: Bearer` with the token of MDREC_OPERATOR_TOKEN.

Every write is on record in the `exp:audit` stream: experiment changes by their store, those of aliases and ads in the same
shape. Files and Redis are read in a thread, away from the loop that answers users.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import redis
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from abtest.definitions import parse
from abtest.experiments import Change, ExperimentStore, Snapshot, VersionConflict
from contracts.keys import EXPERIMENTS_AUDIT
from server import admin_added, admin_ads
from server.errors import Problem, overloaded
from server.gateway import Gateway
from server.openapi import problems
from server.settings import Settings

T = TypeVar("T")
Json = dict[str, Any]

_TIMEOUT_SECONDS = 5.0
_AUDIT_ATTEMPTS = 10
_bearer = HTTPBearer(auto_error=False, description="MDREC_OPERATOR_TOKEN")


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
        dependencies=[Depends(_guard(gateway.settings))],
        responses=problems(401, 403, 503),
    )
    aliases = gateway.registry.aliases
    client = redis.Redis.from_url(
        gateway.settings.redis_url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    )
    store = ExperimentStore(client)

    async def off_loop(work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except redis.RedisError as error:
            raise overloaded("redis-gone", f"Redis is unreachable: {error}", gateway.settings.retry_after_seconds) from None
        except VersionConflict as error:
            raise Problem(412, "version-conflict", str(error)) from None

    async def change_alias(who: str, why: str, path: str, change: Callable[[], tuple[Any, Any]]) -> None:
        """Apply, put on record, and let this worker look at once; the others follow at their next look."""

        def work() -> None:
            before, after = change()
            _audit(client, store, who, why, {path: [before, after]})

        await off_loop(work)
        gateway.background(gateway.registry.refresh(), "swap")

    async def record(who: str, why: str, diff: dict[str, list[Any]]) -> None:
        await off_loop(lambda: _audit(client, store, who, why, diff))

    admin_ads.add(routes, gateway, record)
    admin_added.add(routes, gateway, record)

    def look_up(recipe: str) -> Json | None:
        found = aliases.get(recipe)
        return asdict(found) if found is not None else None

    @routes.get("/experiments")
    async def read_experiments(response: Response) -> Json:
        """The definitions and their version; the ETag is what a write must name."""
        found = await off_loop(store.read)
        response.headers["ETag"] = _etag(found.version)
        return _definitions(found)

    @routes.put("/experiments", responses=problems(412, 422, 428))
    async def write_experiments(
        request: Request,
        response: Response,
        if_match: Annotated[str | None, Header()] = None,
        x_operator: Annotated[str, Header()] = "operator",
        x_why: Annotated[str, Header()] = "",
    ) -> Json:
        """Replace the definitions (GrowthBook's feature JSON). `If-Match` names the version that was read."""
        expected = _version(if_match)
        definitions = parse(await request.body())
        after = await off_loop(lambda: store.write(definitions, who=x_operator, expected_version=expected, why=x_why))
        await gateway.experiments.refresh()
        response.headers["ETag"] = _etag(after.version)
        return _definitions(after)

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
        if_match: Annotated[str | None, Header()] = None,
        x_operator: Annotated[str, Header()] = "operator",
    ) -> Json | None:
        """Let another bundle serve a recipe. `If-Match` may name the bundle that is expected to serve now."""

        def move() -> tuple[str | None, str]:
            now = aliases.get(recipe)
            serving = now.bundle_id if now else None
            if if_match is not None and if_match.strip('"') != (serving or ""):
                raise Problem(412, "version-conflict", f"recipe {recipe!r} serves {serving!r}, not {if_match}")
            return serving, aliases.move(recipe, body.bundle_id).bundle_id

        await change_alias(x_operator, body.why, f"aliases.{recipe}", move)
        return look_up(recipe)

    @routes.post("/aliases/{recipe}/rollback", responses=problems(422))
    async def roll_back(recipe: str, x_operator: Annotated[str, Header()] = "operator") -> Json | None:
        """Back to the bundle that served the recipe before."""

        def move() -> tuple[str | None, str]:
            now = aliases.get(recipe)
            return now.bundle_id if now else None, aliases.rollback(recipe).bundle_id

        await change_alias(x_operator, "rollback", f"aliases.{recipe}", move)
        return look_up(recipe)

    @routes.put("/champion", responses=problems(422))
    async def crown(body: Crown, x_operator: Annotated[str, Header()] = "operator") -> Json:
        """Make a recipe champion: it answers outside every experiment."""

        def move() -> tuple[str | None, str]:
            before = aliases.champion()
            aliases.crown(body.recipe)
            return before, body.recipe

        await change_alias(x_operator, body.why, "champion", move)
        return {"champion": body.recipe}

    return routes


def _guard(settings: Settings) -> Callable[..., None]:
    """401 without the right token; 403 where no token is configured, since then nobody may."""

    def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if settings.operator_token is None:
            raise Problem(403, "admin-disabled", "no operator token is configured; set MDREC_OPERATOR_TOKEN to enable /admin/v1")
        given = credentials.credentials if credentials else ""
        if not secrets.compare_digest(given.encode(), settings.operator_token.get_secret_value().encode()):
            detail = "send `Authorization: Bearer <operator token>`"
            raise Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})

    return check


def _audit(client: redis.Redis, store: ExperimentStore, who: str, why: str, diff: dict[str, list[Any]]) -> None:
    """The store numbers its entries `<version>-0`; changes between two versions take the numbers after it."""
    for _ in range(_AUDIT_ATTEMPTS):
        store.history(1)  # files the last change of definitions, so that its number stays free for it
        version = store.read().version
        change = Change(version, who, time.time(), why, diff)
        try:
            client.xadd(EXPERIMENTS_AUDIT, {b"change": json.dumps(asdict(change)).encode()}, id=f"{version}-*")
            return
        except redis.ResponseError as error:  # another version came in between
            if "equal or smaller" not in str(error):
                raise
    raise Problem(503, "audit", "the change was made but its record was not; definitions change too fast", diff=diff)


def _definitions(found: Snapshot) -> Json:
    return {"version": found.version, "definitions": json.loads(found.definitions.body())}


def _etag(version: int) -> str:
    return f'"{version}"'


def _version(if_match: str | None) -> int:
    if if_match is None:
        raise Problem(428, "precondition-required", "send `If-Match` with the ETag of the definitions you read", field="If-Match")
    try:
        return int(if_match.removeprefix("W/").strip('"'))
    except ValueError:
        raise Problem(422, "bad-input", f"If-Match {if_match} is no version", field="If-Match") from None
