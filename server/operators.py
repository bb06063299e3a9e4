"""Who may use /admin/v1, and under which name it goes on record.

MDREC_OPERATOR_TOKENS holds a token for each operator, `ada:token,bob:token`: the name is that of the token.
MDREC_OPERATOR_TOKEN is one token for all; those who hold it say who they are in the header X-Operator.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.errors import Problem
from server.header_text import HeaderText
from server.settings import Settings, named_tokens

_bearer = HTTPBearer(auto_error=False, description="a token of MDREC_OPERATOR_TOKENS, or MDREC_OPERATOR_TOKEN")


def guard(settings: Settings) -> Callable[..., None]:
    """401 without a right token; 403 where none is configured, since then nobody may."""
    named = named_tokens(settings.operator_tokens)
    shared = settings.operator_token

    def check(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        x_operator: Annotated[HeaderText, Header(description="your name, where the token does not say it")] = "operator",
    ) -> None:
        if shared is None and not named:
            detail = "no operator token is configured; set MDREC_OPERATOR_TOKENS or MDREC_OPERATOR_TOKEN to enable /admin/v1"
            raise Problem(403, "admin-disabled", detail)
        given = (credentials.credentials if credentials else "").encode()
        holders = [name for name, token in named.items() if secrets.compare_digest(given, token.encode())]
        if shared is not None and secrets.compare_digest(given, shared.get_secret_value().encode()):
            holders.append(x_operator)
        if not holders:
            detail = "send `Authorization: Bearer <operator token>`"
            raise Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        request.state.operator = holders[0]

    return check


def _operator(request: Request) -> str:
    return str(request.state.operator)


Operator = Annotated[str, Depends(_operator)]
