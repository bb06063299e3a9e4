"""Operators begin, widen and read canaries and shadows: /admin/v1/canaries, /admin/v1/shadows.

Both lie in the definitions of experiments: the ETag is theirs, a write names it in `If-Match`, is on record and reaches all
workers at once. A canary is paused and stopped like any experiment (/admin/v1/experiments/{key}/stop); what is wrong with a
definition is 422.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, cast

import redis
from fastapi import APIRouter, Response
from pydantic import Field

from abtest.canary import MAX_SHARE, Canary, canaries, domain_of, rule_of, running, share_of
from abtest.canary_watch import Watcher
from abtest.definitions import Definitions, Feature, Rule
from abtest.experiments import ExperimentStore, Snapshot
from abtest.shadow import Shadow, summary
from abtest.verdict import Side
from contracts.aliases import Aliases
from contracts.errors import BundleError
from contracts.keys import shadow_counts
from contracts.manifest import Manifest
from server.admin_ads import IfMatch, Why, known_domain
from server.admin_experiments import Reason
from server.admin_write import DryRun, OffLoop, Writer
from server.errors import Problem
from server.gateway import Gateway
from server.openapi import problems
from server.operators import Operator

Json = dict[str, Any]


class CanaryBody(Canary, Reason):
    """A share of one domain's users gets `bundle` of `recipe`, or the bundle that its alias serves."""

    domain: Annotated[str, Field(min_length=1)]
    recipe: Annotated[str, Field(min_length=1)]
    bundle: Annotated[str, Field(min_length=1)] | None = None
    share: Annotated[float, Field(gt=0, le=MAX_SHARE, description="of the domain's users; as many are its stable side")]
    outcome: None = Field(None, exclude=True, description="the watcher's to write")

    def plan(self) -> Canary:
        return Canary.model_validate(
            self.model_dump(exclude_unset=True, exclude={"domain", "recipe", "bundle", "share", "why", "outcome"})
        )


class ShadowBody(Shadow, Reason):
    def shadow(self) -> Shadow:
        return Shadow.model_validate(self.model_dump(exclude_unset=True, exclude={"why"}))


def add(
    routes: APIRouter, gateway: Gateway, client: redis.Redis, store: ExperimentStore, off_loop: OffLoop, write: Writer
) -> None:
    errors, aliases = problems(404, 412, 422, 428), gateway.registry.aliases
    watcher = Watcher(client)

    @routes.get("/canaries")
    async def read_canaries(response: Response) -> Json:
        """Every canary: how its two sides stand, what the watcher would say now, and what it did."""

        def work() -> tuple[Snapshot, list[Json]]:
            found = store.read()
            alive = running(found.definitions)
            return found, [
                _canary(key, rule, watcher if key in alive else None) for key, rule in canaries(found.definitions).items()
            ]

        found, shown = await off_loop(work)
        response.headers["ETag"] = f'"{found.version}"'
        return {"version": found.version, "canaries": shown}

    @routes.put("/canaries/{key:path}", responses=errors)
    async def write_canary(
        key: str, body: CanaryBody, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Begin a canary; or widen one, or change what it may be worse by, under the same key, domain, recipe and bundle."""
        known_domain(gateway, body.domain)
        await off_loop(lambda: _answerable(aliases, body.domain, body.recipe, body.bundle))
        rule = rule_of(key, body.domain, body.recipe, body.bundle, body.share, body.plan())
        return await write(response, lambda now: _with_canary(now, key, rule), who, body.why, if_match, dry_run)

    @routes.get("/shadows")
    async def read_shadows(response: Response) -> Json:
        """Every shadow with its counts over all workers, by the bundle that answered; and those that this worker cannot run."""

        def work() -> tuple[Snapshot, list[Json]]:
            found = store.read()
            return found, [_shadow(client, key, one) for key, one in found.definitions.shadows.items()]

        found, shown = await off_loop(work)
        response.headers["ETag"] = f'"{found.version}"'
        return {"version": found.version, "shadows": shown, "problems": gateway.trials.shadows.problems()}

    @routes.put("/shadows/{key:path}", responses=errors)
    async def write_shadow(
        key: str, body: ShadowBody, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Define a shadow, give it another share, or switch it (`active`)."""
        known_domain(gateway, body.domain)
        await off_loop(lambda: _answerable(aliases, body.domain, body.recipe, body.bundle))
        wanted = body.shadow()

        def amend(now: Definitions) -> Definitions:
            before = now.shadows.get(key)
            if before is not None and (before.domain, before.recipe) != (wanted.domain, wanted.recipe):
                detail = f"shadow {key!r} is of {before.recipe!r} in {before.domain!r}; its counts are, too: take another key"
                raise Problem(422, "bad-input", detail, field="key")
            return now.model_copy(update={"shadows": {**now.shadows, key: wanted}})

        return await write(response, amend, who, body.why, if_match, dry_run)

    @routes.delete("/shadows/{key:path}", responses=errors)
    async def delete_shadow(
        key: str, response: Response, who: Operator, if_match: IfMatch = None, x_why: Why = "", dry_run: DryRun = False
    ) -> Json:
        """Take a shadow away; its counts stay for 30 days."""

        def amend(now: Definitions) -> Definitions:
            if key not in now.shadows:
                known = sorted(now.shadows)
                detail = f"no shadow {key!r}; known: {', '.join(known) or 'none yet'}"
                raise Problem(404, "unknown-shadow", detail, known=known)
            return now.model_copy(update={"shadows": {name: one for name, one in now.shadows.items() if name != key}})

        return await write(response, amend, who, x_why, if_match, dry_run)


def _with_canary(now: Definitions, key: str, rule: Rule) -> Definitions:
    """A new canary stands last: users whom an earlier feature gives a recipe stay with it, and are in neither of its arms."""
    before = now.experiments().get(key)
    if before is None:
        if key in now.features:
            raise Problem(422, "bad-input", f"{key!r} is a feature; give the canary another key", field="key")
        return now.model_copy(update={"features": {**now.features, key: Feature(rules=[rule])}})
    if before.canary is None or before.status == "stopped":
        what = "no canary" if before.canary is None else "a canary that has ended"
        raise Problem(422, "bad-input", f"{key!r} is {what}; begin under another key", field="key")
    if rule.coverage is not None and rule.coverage < (before.coverage or 0.0) - 1e-9:
        detail = f"canary {key!r} has {share_of(before):.2%} of the users already: ramping only adds; stop it to go back"
        raise Problem(422, "bad-input", detail, field="share")
    assert rule.canary is not None
    fields = rule.model_dump(exclude_unset=True)
    return now.amend(key, **{name: fields[name] for name in ("variations", "condition", "coverage", "canary")})


def _answerable(aliases: Aliases, domain: str, recipe: str, bundle: str | None) -> None:
    """Raises 422 for a recipe or bundle that cannot answer in the domain."""
    if bundle is None:
        alias = aliases.get(recipe)
        if alias is None:
            known = ", ".join(aliases.recipes()) or "none"
            raise Problem(422, "unknown-recipe", f"recipe {recipe!r} serves no bundle; those that do: {known}", field="recipe")
        bundle = alias.bundle_id
    elif bundle not in aliases.bundle_ids():
        known = ", ".join(aliases.bundle_ids()) or "none"
        raise Problem(
            422, "unknown-bundle", f"bundle {bundle!r} does not exist or is incomplete; complete: {known}", field="bundle"
        )
    try:
        manifest = Manifest.load(aliases.bundle_directory(bundle))
    except BundleError as error:
        raise Problem(422, "bad-bundle", str(error), field="bundle") from None
    domains = [one.name for one in manifest.domains]
    if manifest.recipe != recipe or domain not in domains:
        detail = f"bundle {bundle!r} is of recipe {manifest.recipe!r} with domains {', '.join(domains)}"
        raise Problem(422, "bad-bundle", detail, field="bundle")


def _canary(key: str, rule: Rule, watcher: Watcher | None) -> Json:
    """watcher: None for one that does not run."""
    assert rule.canary is not None
    arm = rule.variations[1]
    body: Json = {
        "key": key,
        "domain": domain_of(rule),
        "recipe": arm["recipe"],
        "bundle": arm.get("bundle"),
        "share": share_of(rule),
        "status": rule.status if rule.active else "paused",
        "plan": rule.canary.model_dump(mode="json", exclude={"outcome"}),
        "outcome": rule.canary.outcome.model_dump(mode="json") if rule.canary.outcome else None,
    }
    if watcher is None:
        return body
    found = watcher.standing(key, rule)
    windows = [{"window": one.name, "stable": _side(one.stable), "canary": _side(one.canary)} for one in found.windows]
    return body | {
        "hours": found.seconds / 3600,
        "users": found.users,
        "windows": windows,
        "business": [asdict(one) for one in found.business],
        "verdict": found.verdict.action,
        "reasons": found.verdict.reasons,
    }


def _side(side: Side) -> Json:
    counts = {name: value for name, value in vars(side).items() if isinstance(value, int)}
    return {**counts, "p50_ms": side.milliseconds(0.5), "p99_ms": side.milliseconds(0.99), "median_p_click": side.median_score()}


def _shadow(client: redis.Redis, key: str, shadow: Shadow) -> Json:
    by_bundle: dict[str, dict[str, float]] = {}
    for name, value in cast(dict[bytes, bytes], client.hgetall(shadow_counts(key))).items():
        bundle_id, _, field = name.decode().partition("|")
        by_bundle.setdefault(bundle_id, {})[field] = float(value)
    return {
        "key": key,
        **shadow.model_dump(mode="json"),
        "bundles": [{"bundle_id": name or None, **summary(fields)} for name, fields in sorted(by_bundle.items())],
    }
