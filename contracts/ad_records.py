"""What operators said of ads, as Redis holds it: one hash a domain, of `version` and a record `a:{ad_id}` each.

A record that nobody can read is skipped, alone, and named: the others stay in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

VERSION = b"version"
NO_VERSION = -1  # what stands for a version that is no number
MAX_BID = 1e12  # currency units a click
_AD = b"a:"
_LONGEST_VERSION = 15  # digits: what Lua holds exactly


class Unreadable(NamedTuple):
    """field: the record's field in the hash; ad_id: of whom it would be, bytes that are no UTF-8 escaped."""

    field: bytes
    ad_id: str
    why: str

    @property
    def key(self) -> str:
        return spelled(self.field)


@dataclass(frozen=True, slots=True)
class Records(Generic[T]):
    """One version of a domain's records; version 0 is none yet."""

    version: int = 0
    ads: Mapping[str, T] = field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()


def ad_field(ad_id: str) -> bytes:
    return _AD + ad_id.encode()


def spelled(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def version_of(data: bytes | None) -> int:
    """The number of a stored version, NO_VERSION where it is none."""
    if data is None:
        return 0
    return int(data) if data.isdigit() and len(data) <= _LONGEST_VERSION else NO_VERSION


def unpack(fields: Mapping[bytes, bytes], read: Callable[[bytes], T]) -> Records[T]:
    """The reply of HGETALL. read: one record; raises ValueError, TypeError or RecursionError for what was not written as one."""
    ads: dict[str, T] = {}
    unreadable = []
    for name, data in sorted(fields.items()):
        if not name.startswith(_AD):
            continue
        try:
            ads[name[len(_AD) :].decode()] = read(data)
        except (ValueError, TypeError, RecursionError) as error:
            unreadable.append(Unreadable(name, spelled(name[len(_AD) :]), str(error)))
    return Records(version_of(fields.get(VERSION)), ads, tuple(unreadable))


def checked_bid(bid: object) -> float:
    """Raises ValueError for what is no price: 0 to MAX_BID currency units."""
    if isinstance(bid, bool) or not isinstance(bid, int | float) or not 0 <= bid <= MAX_BID:
        raise ValueError(f"bid is {bid!r}")
    return float(bid)
