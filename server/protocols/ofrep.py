"""OFREP, the OpenFeature Remote Evaluation Protocol: any OpenFeature client reads the same flags and arms as the gateway serves.

    POST /ofrep/v1/evaluate/flags/{key}     one feature
    POST /ofrep/v1/evaluate/flags           all of them, with an ETag

The context's `targetingKey` is the user id; its other entries are what conditions see, `domain` among them. Nothing is logged
as an exposure: whoever asks here answers its users itself. Errors have the protocol's own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from abtest.definitions import Feature
from abtest.evaluate import FeatureResult
from abtest.remembered import Memory
from server.api import MAX_ID_BYTES
from server.gateway import Gateway

JSON = "application/json"
_CONTEXT = {
    "type": "object",
    "required": ["targetingKey"],
    "properties": {"targetingKey": {"type": "string", "maxLength": MAX_ID_BYTES}},
    "additionalProperties": True,
}
_REQUEST = {"type": "object", "required": ["context"], "properties": {"context": _CONTEXT}}
_BODY = {"requestBody": {"required": True, "content": {JSON: {"schema": _REQUEST}}}}
_BAD: dict[int | str, dict[str, Any]] = {
    400: {"description": "errorCode PARSE_ERROR, INVALID_CONTEXT, TARGETING_KEY_MISSING or GENERAL"}
}


class Refusal(Exception):
    def __init__(self, code: str, details: str, status: int = 400) -> None:
        super().__init__(details)
        self.code, self.details, self.status = code, details, status

    def body(self, key: str | None = None) -> dict[str, str]:
        named = {"key": key} if key is not None else {}
        return {**named, "errorCode": self.code, "errorDetails": self.details}


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(prefix="/ofrep/v1/evaluate", tags=["ofrep"])
    experiments = gateway.experiments

    async def recall(attributes: Mapping[str, Any]) -> Memory | None:
        units = experiments.remembers(attributes)
        return await gateway.sticky.recall(units, gateway.settings.redis_timeout_ms / 1000) if units else None

    def evaluate(key: str, attributes: Mapping[str, Any], memory: Memory | None) -> dict[str, Any]:
        """The protocol's evaluationSuccess. Raises Refusal."""
        feature = experiments.definitions.features.get(key)
        if feature is None:
            raise Refusal("FLAG_NOT_FOUND", f"there is no flag {key!r}", 404)
        result = experiments.evaluate(key, attributes, memory)
        if result.source == "cyclicPrerequisite":
            raise Refusal("GENERAL", f"the prerequisites of flag {key!r} lead back to it")
        kept = [one.kept for one in (*result.passed, *filter(None, [result.outcome])) if one.kept is not None]
        if kept:
            gateway.background(gateway.sticky.keep(kept), "sticky")
        return _success(key, result, _reason(feature, result, experiments.definitions.active), experiments.version)

    @routes.post("/flags/{key:path}", openapi_extra=_BODY, responses={**_BAD, 404: {"description": "FLAG_NOT_FOUND"}})
    async def evaluate_flag(key: str, request: Request) -> Response:
        """One feature for one user."""
        try:
            attributes = _attributes(await request.body())
            return _json(evaluate(key, attributes, await recall(attributes)))
        except Refusal as refusal:
            return _json(refusal.body(key), refusal.status)

    @routes.post("/flags", openapi_extra=_BODY, responses={**_BAD, 304: {"description": "as `If-None-Match` names it"}})
    async def evaluate_flags(request: Request) -> Response:
        """Every feature for one user. The ETag is that of this user's answer."""
        try:
            attributes = _attributes(await request.body())
        except Refusal as refusal:
            return _json(refusal.body(), refusal.status)
        memory, flags = await recall(attributes), []
        for key in experiments.definitions.features:
            try:
                flags.append(evaluate(key, attributes, memory))
            except Refusal as refusal:
                flags.append(refusal.body(key))
        answer = _json({"flags": flags, "metadata": {"version": experiments.version}})
        etag = f'"{blake2b(bytes(answer.body), digest_size=16).hexdigest()}"'
        if _names(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers={"ETag": etag})
        answer.headers["ETag"] = etag
        return answer

    return routes


def _attributes(body: bytes) -> dict[str, Any]:
    """What conditions and hashes see. Raises Refusal."""
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("PARSE_ERROR", f"the body is not valid JSON: {error}") from None
    context = asked.get("context") if isinstance(asked, dict) else None
    if not isinstance(context, dict):
        raise Refusal("INVALID_CONTEXT", "the body has no object `context`")
    if context.get("targetingKey") in (None, ""):
        raise Refusal("TARGETING_KEY_MISSING", "the context has no `targetingKey`, the user's id")
    user_id = context["targetingKey"]
    if not isinstance(user_id, str) or len(user_id.encode()) > MAX_ID_BYTES:
        raise Refusal("INVALID_CONTEXT", f"`targetingKey` is no text of at most {MAX_ID_BYTES} bytes")
    return {**context, "id": user_id, "user_id": user_id}


def _success(key: str, result: FeatureResult, reason: str, version: int) -> dict[str, Any]:
    """Without `value` where there is none: the client then takes the default of its own code."""
    value = {} if result.value is None else {"value": result.value}
    metadata: dict[str, Any] = {"version": version}
    variant = result.rule_id or result.source
    if result.outcome is not None:
        variant, metadata["experiment"] = result.outcome.arm, result.outcome.key
    return {"key": key, **value, "reason": reason, "variant": variant, "metadata": metadata}


def _reason(feature: Feature, result: FeatureResult, active: bool) -> str:
    """A default that rules did not change is UNKNOWN: another user or a later hour may get something else, and a client
    may keep what is STATIC for ever."""
    if not active or not feature.active or result.source == "prerequisite":
        return "DISABLED"
    if result.source == "experiment":
        return "SPLIT"
    if result.source == "force":
        return "TARGETING_MATCH"
    return "UNKNOWN" if feature.rules else "STATIC"


def _names(if_none_match: str, etag: str) -> bool:
    named = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in named or etag in named or etag.strip('"') in named


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
