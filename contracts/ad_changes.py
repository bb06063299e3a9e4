"""What operators changed about ads since the bundle was made: one Redis hash a domain, of `version` and an `a:{ad_id}` each.

A change outlives bundles: an ad that was paused stays paused until it is resumed or the change is withdrawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

VERSION = "version"
_AD = "a:"


@dataclass(frozen=True, slots=True)
class AdChange:
    """None: as the bundle has it. paused: never shown, whatever the bundle says of it, or (False) shown."""

    paused: bool | None = None
    bid: float | None = None

    def __bool__(self) -> bool:
        return self != AdChange()

    def pack(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def unpack(cls, data: bytes | None) -> AdChange:
        """None (no such field) is no change. Raises ValueError or TypeError for what `pack` did not write."""
        return cls(**json.loads(data)) if data is not None else cls()


@dataclass(frozen=True, slots=True)
class AdChanges:
    """One version of a domain's changes; version 0 is none yet."""

    version: int = 0
    ads: Mapping[str, AdChange] = field(default_factory=dict)


def ad_field(ad_id: str) -> str:
    return f"{_AD}{ad_id}"


def unpack(fields: Mapping[bytes, bytes]) -> AdChanges:
    """The reply of HGETALL. Raises ValueError or TypeError where it is not such a hash."""
    prefix = _AD.encode()
    ads = {name[len(prefix) :].decode(): AdChange.unpack(data) for name, data in fields.items() if name.startswith(prefix)}
    return AdChanges(int(fields.get(VERSION.encode(), 0)), ads)
