"""POST /v1/feedback."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from server import api
from server.errors import Problem, overloaded
from server.gateway import Gateway
from server.openapi import body_of, problems
from server.redis_door import FAILURES


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["serving"])

    @routes.post(
        "/v1/feedback",
        status_code=202,
        response_model=api.FeedbackAnswer,
        openapi_extra=body_of(api.FeedbackRequest),
        responses=problems(400, 413, 422, 503),
    )
    async def feedback(request: Request) -> Response:
        """Impressions, clicks and conversions. 202 means that Redis has them; a repeated event_id counts once."""
        asked = api.FeedbackRequest.model_validate_json(await request.body())
        settings, live = gateway.settings, gateway.registry.live
        if len(asked.events) > settings.max_events:
            detail = f"{len(asked.events)} events in one request, at most {settings.max_events} are taken"
            raise Problem(422, "bad-input", detail, field="events")
        if not live.bundles:
            raise Problem(503, "no-bundle", "no bundle is in service yet", headers={"Retry-After": "5"})
        try:
            receipt = await gateway.feedback.add(asked.events, live.domain_names())
        except FAILURES as error:
            raise overloaded("redis-gone", f"events cannot be stored now: {error}", settings.retry_after_seconds) from None
        if receipt.accepted:
            gateway.background(gateway.folder.add(receipt.accepted, live), "fold")
        answer = api.FeedbackAnswer(len(receipt.accepted), receipt.duplicates, receipt.rejected)
        return Response(msgspec.json.encode(answer), 202, media_type="application/json")

    return routes
