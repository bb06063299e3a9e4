"""Operators apply a decision, and take it back: /admin/v1/experiments/{key}/promote and /revert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from abtest.experiments import ExperimentStore, Snapshot
from abtest.promotion import Promoter, Promotion
from server.admin_ads import IfMatch
from server.admin_experiments import Reason, amend_known, shown
from server.admin_write import OffLoop, expected_version
from server.gateway import Gateway
from server.openapi import problems
from server.operators import Operator

Json = dict[str, Any]


class Promote(Reason):
    arm: str = Field(description="the challenger that everybody is to get")


def add(routes: APIRouter, gateway: Gateway, store: ExperimentStore, off_loop: OffLoop) -> None:
    path = "/experiments/{key:path}"
    errors = problems(404, 412, 422, 428)
    promoter = Promoter(store, gateway.settings.home)

    async def move(key: str, response: Response, work: Callable[[], tuple[Promotion, Snapshot]]) -> Json:
        def checked() -> tuple[Promotion, Snapshot]:
            amend_known(key, lambda now: now)(store.read().definitions)
            return work()

        done, after = await off_loop(checked)
        await gateway.experiments.refresh()
        gateway.background(gateway.registry.refresh(), "swap")
        response.headers["ETag"] = f'"{after.version}"'
        return {**shown(after), "promotion": asdict(done)}

    @routes.post(path + "/promote", responses=errors)
    async def promote(key: str, body: Promote, response: Response, who: Operator, if_match: IfMatch = None) -> Json:
        """Stop the experiment and let its arm be what everybody gets: its recipe becomes champion, or, where the arm has
        parameters or was tried on chosen users only, the arm is released to all whom it targets."""
        version = expected_version(if_match)
        return await move(key, response, lambda: promoter.promote(key, body.arm, who=who, why=body.why, expected_version=version))

    @routes.post(path + "/revert", responses=errors)
    async def revert(key: str, body: Reason, response: Response, who: Operator, if_match: IfMatch = None) -> Json:
        """Take the promotion back: the champion is the one before, and the experiment runs again with the same arms."""
        version = expected_version(if_match)
        return await move(key, response, lambda: promoter.revert(key, who=who, why=body.why, expected_version=version))
