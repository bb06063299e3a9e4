"""OpenAPI of routes that parse and write for themselves: the same models, referred to by name."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server import api
from server.errors import MEDIA_TYPE, ProblemBody

_REF = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (
    api.RecommendRequest,
    api.ScoreRequest,
    api.FeedbackRequest,
    api.FeedbackEvent,
    ProblemBody,
)


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """For `openapi_extra` of a route that reads its own body."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses` of a route: which errors it answers."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=ProblemBody.__name__)}}}
    return {status: {"description": "Problem (RFC 9457)", "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Add the models that `body_of` and `problems` refer to."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, found = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
