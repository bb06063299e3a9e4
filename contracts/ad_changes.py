"""An ad paused, resumed or re-priced by day: one record of ad_records.py under `ads:{domain}`.

A change outlives bundles: an ad that was paused stays paused until it is resumed or the change is withdrawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from contracts import ad_records
from contracts.ad_records import Records, checked_bid


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
    def unpack(cls, data: bytes) -> AdChange:
        """Raises ValueError, TypeError or RecursionError for what `pack` did not write."""
        change = cls(**json.loads(data))
        if change.paused is not None and not isinstance(change.paused, bool):
            raise ValueError(f"paused is {change.paused!r}")
        return change if change.bid is None else cls(change.paused, checked_bid(change.bid))


def unpack(fields: Mapping[bytes, bytes]) -> Records[AdChange]:
    """The reply of HGETALL."""
    return ad_records.unpack(fields, AdChange.unpack)
