"""How the nights went: /admin/v1/nights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from contracts.nights import KEEP_NIGHTS, DamagedNight, NightRecord, read_nights
from server.admin_write import OffLoop
from server.gateway import Gateway
from server.polling import IfNoneMatch, answers, polled

Count = Annotated[int, Query(ge=1, le=KEEP_NIGHTS)]


class NightsAnswer(BaseModel):
    """nights: latest first; damaged: files that are no record."""

    nights: list[NightRecord]
    damaged: list[DamagedNight]


def add(routes: APIRouter, gateway: Gateway, off_loop: OffLoop) -> None:
    @routes.get("/nights", response_model=NightsAnswer, responses=answers(422))
    async def nights(count: Count = 30, if_none_match: IfNoneMatch = None) -> Response:
        """The latest nights: steps with their seconds, gates with their numbers, what was published or why not."""

        def work() -> Response:
            found, damaged = read_nights(gateway.settings.home, count)
            return polled(NightsAnswer(nights=found, damaged=damaged), if_none_match)

        return await off_loop(work)
