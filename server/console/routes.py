"""The operator page at /console: files of this package, which ask the admin API for everything that they show.

The files hold no data, so they need no token. Nothing on the page may run or load but these files: the policy says so to the
browser, and there is neither a script nor a style inside the HTML.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import RedirectResponse, Response

from server.errors import Problem
from server.gateway import Gateway

_PAGE = Path(__file__).parent / "page"
_INDEX = "index.html"
_KNOWN_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # asked again each time, and answered 304: a new version is never mixed with an old one
}


@dataclass(frozen=True)
class File:
    content: bytes
    media_type: str
    etag: str


def files() -> dict[str, File]:
    """Every file of the page by its path under /console/. Read once, so that a request never touches the disk."""
    found = {path.relative_to(_PAGE).as_posix(): path for path in sorted(_PAGE.rglob("*")) if path.is_file()}
    return {name: _file(path) for name, path in found.items()}


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    known = files()

    @routes.api_route("/console", methods=["GET", "HEAD"])
    async def console() -> Response:
        return RedirectResponse("console/", 308)  # relative: also right behind a prefix

    @routes.api_route("/console/{name:path}", methods=["GET", "HEAD"])
    async def file(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
        found = known.get(name or _INDEX)
        if found is None:
            raise Problem(404, "about:blank", f"no such path: /console/{name}")
        headers = {**HEADERS, "ETag": found.etag}
        if found.etag in if_none_match:
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)

    return routes


def _file(path: Path) -> File:
    content = path.read_bytes()
    media_type = _KNOWN_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
