"""Text in headers, whose values are Latin-1: what does not fit comes as RFC 8187 has it, UTF-8''%e2%80%a6."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator

_EXTENDED = "utf-8''"


def _read(value: str) -> str:
    """Raises ValueError (pydantic: 422) where the escapes are no UTF-8."""
    if not value.lower().startswith(_EXTENDED):
        return value
    return unquote_to_bytes(value[len(_EXTENDED) :]).decode()


HeaderText = Annotated[str, AfterValidator(_read)]
