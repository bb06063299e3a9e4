"""Answers that a page asks for again and again: a weak ETag over what they say, 304 to who has it already."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from typing import Annotated, Any

from fastapi import Header, Response
from pydantic import BaseModel

from server.openapi import problems

IfNoneMatch = Annotated[str | None, Header(description="the ETag of the answer you have: 304 while nothing changed")]
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "as the ETag that `If-None-Match` names"}}


def polled(model: BaseModel, if_none_match: str | None, ages: Set[str] = frozenset()) -> Response:
    """ages: fields that grow with the clock, which are no change."""
    body = model.model_dump_json().encode()
    told = model.model_dump_json(exclude=set(ages)).encode() if ages else body
    tag = f'W/"{hashlib.sha256(told).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if if_none_match is not None and tag in (one.strip() for one in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses` of a polled route that also answers these problems."""
    return {**NOT_MODIFIED, **problems(*statuses)}
