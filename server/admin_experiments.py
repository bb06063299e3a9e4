"""Operators define, ramp, pause, stop and kill experiments: /admin/v1/experiments, /admin/v1/kill-switch.

A write names the version it was made from (`If-Match`), and is refused when somebody else wrote since. Pausing and the kill
switch may leave it out: an emergency does not wait for a version. With `?dry_run=true` a write is checked in full, its diff
answered, and nothing stored. All workers follow at once.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from abtest import actions
from abtest.definitions import Definitions, Rule, parse, recipe_shown
from abtest.experiments import Amend, ExperimentStore, Snapshot
from abtest.ramp import ramp
from server.admin_ads import IfMatch, Why, version_named
from server.admin_write import DryRun, OffLoop, Writer, expected_version
from server.errors import Problem
from server.openapi import problems
from server.operators import Operator

Json = dict[str, Any]


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")

    why: str = Field("", description="goes into the audit record")


class Ramp(Reason):
    coverage: float | None = Field(None, ge=0, le=1, description="share of all units in the experiment, split as its weights say")
    shares: list[float] | None = Field(None, description="each arm's share of all units")

    @model_validator(mode="after")
    def _one_of_both(self) -> Ramp:
        if (self.coverage is None) == (self.shares is None):
            raise ValueError("give coverage or shares")
        return self


class Stop(Reason):
    release: str | None = Field(None, description="the arm that all whom it targets get from now on; null: the champion")


class KillSwitch(Reason):
    on: bool = Field(description="true: everybody gets the champion; false: experiments are as they were")


def add(routes: APIRouter, store: ExperimentStore, off_loop: OffLoop, writer: Writer) -> None:
    path = "/experiments"
    errors = problems(404, 412, 422, 428)

    async def write(response: Response, amend: Amend, who: str, why: str, expected: int | None, dry_run: bool) -> Json:
        after, diff = await writer.change(response, amend, who, why, expected, dry_run)
        return {**shown(after), "diff": diff, "dry_run": dry_run}

    @routes.get(path)
    async def read_experiments(response: Response) -> Json:
        """The definitions, what they say of each experiment, and their version; the ETag is what a write must name."""
        found = await off_loop(store.read)
        response.headers["ETag"] = f'"{found.version}"'
        return shown(found)

    @routes.put(path, responses=errors)
    async def write_experiments(
        request: Request, response: Response, who: Operator, if_match: IfMatch = None, x_why: Why = "", dry_run: DryRun = False
    ) -> Json:
        """Replace the definitions (GrowthBook's feature JSON). The kill switch, the shadows and the caps stay as they are
        unless the body names `active`, `shadows` and `caps`."""
        wanted = parse(await request.body())

        def replace(now: Definitions) -> Definitions:
            beside = {"shadows": now.shadows, "caps": now.caps}
            kept = {"active": now.active, **{name: those for name, those in beside.items() if those}}
            return wanted.model_copy(update={name: value for name, value in kept.items() if name not in wanted.model_fields_set})

        return await write(response, replace, who, x_why, expected_version(if_match, dry_run), dry_run)

    @routes.post(path + "/{key:path}/ramp", responses=errors)
    async def ramp_experiment(
        key: str, body: Ramp, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Give an experiment more traffic; no unit changes arms."""
        amend = amend_known(key, lambda now: ramp(now, key, body.coverage, body.shares))
        return await write(response, amend, who, body.why, expected_version(if_match, dry_run), dry_run)

    @routes.post(path + "/{key:path}/pause", responses=errors)
    async def pause_experiment(
        key: str, body: Reason, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Take an experiment away at once; `If-Match` may be left out."""
        amend = amend_known(key, lambda now: actions.pause(now, key))
        return await write(response, amend, who, body.why, version_named(if_match), dry_run)

    @routes.post(path + "/{key:path}/resume", responses=errors)
    async def resume_experiment(
        key: str, body: Reason, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Bring a paused experiment back with the same arms."""
        amend = amend_known(key, lambda now: actions.resume(now, key))
        return await write(response, amend, who, body.why, expected_version(if_match, dry_run), dry_run)

    @routes.post(path + "/{key:path}/start", responses=errors)
    async def start_experiment(
        key: str, body: Reason, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Let a draft take its units in."""
        amend = amend_known(key, lambda now: actions.start(now, key))
        return await write(response, amend, who, body.why, expected_version(if_match, dry_run), dry_run)

    @routes.post(path + "/{key:path}/stop", responses=errors)
    async def stop_experiment(
        key: str, body: Stop, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """End an experiment; its definition and its ledger stay."""
        amend = amend_known(key, lambda now: actions.stop(now, key, body.release))
        return await write(response, amend, who, body.why, expected_version(if_match, dry_run), dry_run)

    @routes.put("/kill-switch", responses=problems(412, 422))
    async def kill_switch(
        body: KillSwitch, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """All experiments off, or back as they were; `If-Match` may be left out."""
        amend = lambda now: actions.kill(now, body.on)  # noqa: E731
        return await write(response, amend, who, body.why, version_named(if_match), dry_run)


def amend_known(key: str, amend: Amend) -> Amend:
    """Raises 404 where there is no such experiment."""

    def checked(now: Definitions) -> Definitions:
        known = sorted(now.experiments())
        if key not in known:
            raise Problem(
                404, "unknown-experiment", f"no experiment {key!r}; known: {', '.join(known) or 'none yet'}", known=known
            )
        return amend(now)

    return checked


def shown(found: Snapshot) -> Json:
    """What the admin API answers of a version of the definitions."""
    rules = [(name, rule) for name, feature in found.definitions.features.items() for rule in feature.rules if rule.is_experiment]
    return {
        "version": found.version,
        "active": found.definitions.active,
        "experiments": [_experiment(name, rule) for name, rule in rules],
        "definitions": json.loads(found.definitions.body()),
    }


def _experiment(feature: str, rule: Rule) -> Json:
    """share: of all units that the condition and the layer let in."""
    arms = []
    for arm, value, (start, end) in zip(rule.arms, rule.variations, rule.spans(), strict=False):
        arms.append({"arm": arm, "recipe": recipe_shown(value), "share": round(end - start, 9)})
    return {
        "key": rule.key or feature,
        "feature": feature,
        "status": rule.status if rule.active else "paused",
        "released": rule.released,
        "sticky": rule.sticky,
        "condition": rule.condition,
        "namespace": rule.namespace,
        "arms": arms,
    }
