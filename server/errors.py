"""Every error a client sees on our paths is RFC 9457 `application/problem+json`: ours, FastAPI's and Starlette's alike.

Problem               raised by our code; carries status, type, detail and further members
MdrecError            BadInput -> 422, the rest -> 500
RequestValidationError, pydantic.ValidationError -> 400 when the JSON is malformed, else 422 naming the field
HTTPException         404, 405, 413, ... with the same body shape
anything else         500 without its insides; the traceback goes to the log
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from contracts.errors import BadInput, MdrecError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("mdrec.server")


class FieldError(BaseModel):
    field: str
    message: str


class ProblemBody(BaseModel):
    """RFC 9457 section 3.1, with `errors` naming each bad field when there are any."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None


class Problem(Exception):
    """An answer other than success. kind: last part of the type URN; members: extension members of RFC 9457."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers = dict(headers or {})
        self.members = members
        if field is not None:
            self.members["errors"] = [{"field": field, "message": detail}]


def overloaded(kind: str, detail: str, retry_after_seconds: int) -> Problem:
    return Problem(503, kind, detail, headers={"Retry-After": str(retry_after_seconds)})


def render(problem: Problem, path: str) -> Response:
    kind = "about:blank" if problem.kind == "about:blank" else f"urn:mdrec:problem:{problem.kind}"
    body = {
        "type": kind,
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
        **problem.members,
    }
    return Response(msgspec.json.encode(body), problem.status, media_type=MEDIA_TYPE, headers=problem.headers)


def from_validation(errors: Iterable[Any]) -> Problem:
    """pydantic's error list -> one problem. Malformed JSON is 400, everything else 422 with the fields named."""
    found = list(errors)
    broken = next((one for one in found if one["type"] == "json_invalid"), None)
    if broken is not None:
        reason = broken.get("ctx", {}).get("error") or broken["msg"]
        return Problem(400, "malformed-json", f"the body is not valid JSON: {reason}")
    fields = [{"field": _spell(one["loc"]), "message": one["msg"]} for one in found]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in fields[:5])
    return Problem(422, "bad-input", detail, errors=fields)


def problem_of(error: Exception, path: str, method: str = "") -> Problem:
    """What the client is told of an error; what it is not told goes to the log."""
    match error:
        case Problem():
            return error
        case RequestValidationError() | ValidationError():
            return from_validation(error.errors())
        case HTTPException():
            detail = {404: f"no such path: {path}", 405: f"{method} is not allowed on {path}"}.get(
                error.status_code, str(error.detail)
            )
            return Problem(error.status_code, "about:blank", detail, headers=error.headers)
        case BadInput():
            return Problem(422, "bad-input", str(error))
        case MdrecError():
            _log.error("work failed on %s: %s", path, error)
            return Problem(500, "work-failed", str(error))
    _log.exception("unexpected error on %s", path, exc_info=error)
    return Problem(500, "internal", "the gateway failed on this request; its log says why")


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return render(problem_of(error, request.url.path, request.method), request.url.path)

    for kind in (Problem, RequestValidationError, ValidationError, HTTPException, MdrecError, Exception):
        app.add_exception_handler(kind, answer)


def _spell(location: tuple[str | int, ...]) -> str:
    """('body', 'ad_ids', 3) -> 'ad_ids.3'."""
    parts = location[1:] if location and location[0] in ("body", "path", "query", "header") else location
    return ".".join(str(part) for part in parts) or "body"
