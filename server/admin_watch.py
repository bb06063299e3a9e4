"""What operators watch and change nothing by: reports, nights, bundles, health, drift. All polled, all typed."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from abtest.experiments import ExperimentStore
from server import admin_bundles, admin_drift, admin_health, admin_nights, admin_reports
from server.admin_write import OffLoop
from server.gateway import Gateway
from server.operators import Operator


class Me(BaseModel):
    operator: str


def add(routes: APIRouter, gateway: Gateway, store: ExperimentStore, off_loop: OffLoop) -> None:
    @routes.get("/me", response_model=Me)
    async def me(who: Operator) -> Me:
        """Under which name this token's holder goes on record."""
        return Me(operator=who)

    admin_reports.add(routes, gateway, store, off_loop)
    admin_nights.add(routes, gateway, off_loop)
    admin_bundles.add(routes, gateway, off_loop)
    admin_health.add(routes, gateway)
    admin_drift.add(routes, gateway)
