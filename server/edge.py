"""The outermost layer, as plain ASGI, since every request pays for it: body limit, request metrics, and the hot routes' short
cut.

A hot route is answered here, before FastAPI's middlewares, routing and dependencies: they take .4 to .9 ms of a request of 6 ms.
It stands in FastAPI's routes as well, with the same function behind it, for the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import problem_of, render
from server.metrics import Metrics

Answer = Callable[[bytes], Awaitable[bytes]]
"""JSON in, JSON out; raises what server/errors.py knows."""

_UNMATCHED = "unmatched"
_JSON = (b"content-type", b"application/json")
_GONE = 499  # nobody is there to read an answer


class Edge:
    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int, hot: Mapping[str, Answer]) -> None:
        """hot: what answers a POST, by path."""
        self._app, self._metrics, self._max, self._hot = app, metrics, max_body_bytes, hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = perf_counter(), scope["path"]
        status = 500
        answer = self._hot.get(path) if scope["method"] == "POST" else None
        try:
            if answer is not None:
                status = await self._answer(answer, path, scope, receive, send)
            else:
                status = await self._pass_on(path, scope, receive, send)
        finally:
            route = path if answer is not None else getattr(scope.get("route"), "path", _UNMATCHED)
            self._metrics.request(route, status, perf_counter() - started)

    async def _answer(self, answer: Answer, path: str, scope: Scope, receive: Receive, send: Send) -> int:
        try:
            body = await self._body(scope, receive)
            if body is None:
                return _GONE
            content = await answer(body)
        except Exception as error:
            problem = problem_of(error, path)
            await render(problem, path)(scope, receive, send)
            return problem.status
        headers = [_JSON, (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return 200

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole of it; None when the client left."""
        self._check(self._declared(scope))
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check(len(body))
            more = message.get("more_body", False)
        return body

    async def _pass_on(self, path: str, scope: Scope, receive: Receive, send: Send) -> int:
        status, received = 500, 0

        async def limited() -> Message:
            """Bodies without a Content-Length are counted as they come."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._check(received)
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(self._declared(scope))
        except HTTPException as error:
            await render(problem_of(error, path), path)(scope, receive, watched)
            return status
        await self._app(scope, limited, watched)
        return status

    def _check(self, size: int) -> None:
        if size > self._max:
            raise HTTPException(413, f"the body is larger than {self._max} bytes")

    def _declared(self, scope: Scope) -> int:
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        return int(length) if length.isdigit() else 0
