"""The outermost layer: body limit and request metrics, as plain ASGI, since every request pays for it."""

from __future__ import annotations

from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import Problem, render
from server.metrics import Metrics

_UNMATCHED = "unmatched"


class Edge:
    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int) -> None:
        self._app, self._metrics, self._max = app, metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status, received = 500, 0

        async def limited() -> Message:
            """Bodies without a Content-Length are counted as they come."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max:
                raise HTTPException(413, self._detail())
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._declared(scope) > self._max:
                await render(Problem(413, "about:blank", self._detail()), scope["path"])(scope, receive, watched)
            else:
                await self._app(scope, limited, watched)
        finally:
            route = getattr(scope.get("route"), "path", _UNMATCHED)
            self._metrics.http.labels(route, str(status)).observe(perf_counter() - started)

    def _detail(self) -> str:
        return f"the body is larger than {self._max} bytes"

    def _declared(self, scope: Scope) -> int:
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        return int(length) if length.isdigit() else 0
