"""What a user has seen and done of late: `seen:{user_id}`, a sorted set of outcomes by the time they were received (ms).

    member    JSON [type, domain, ad_id, mark]      mark: of the event's id, so that an event told twice is one member

The same outcomes that the ledger keeps, for as long as some cap looks back (abtest/caps.py), the last KEPT of them. Written
beside the stream where feedback is accepted, or from the ledger; either may write what the other has written.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import msgspec

KEPT = 512


class Outcome(NamedTuple):
    """at_ms: milliseconds since 1970, by the gateway's clock."""

    type: str
    domain: str
    ad_id: str
    at_ms: float


def member(type_: str, domain: str, ad_id: str, event_id: str) -> bytes:
    return msgspec.json.encode([type_, domain, ad_id, blake2b(event_id.encode(), digest_size=6).hexdigest()])


def outcome(data: bytes, at_ms: float) -> Outcome:
    """Raises ValueError for a member that is none."""
    try:
        type_, domain, ad_id, _ = msgspec.json.decode(data, type=tuple[str, str, str, str])
    except msgspec.DecodeError as error:
        raise ValueError(f"not an outcome: {data[:80]!r}: {error}") from None
    return Outcome(type_, domain, ad_id, at_ms)
