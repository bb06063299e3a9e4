"""Caps: how often one user is shown one ad, and what is not shown again after a click or a purchase.

    caps:
      feed: {impressions: 3, hours: 24, after_click_hours: 168}
      story: {impressions: 5, all_domains: true}

They stand beside the features of the definitions (definitions.py), one a domain: one version, one audit trail, one announcement
for all. They count outcomes that clients send (`impression`, `click`, `conversion`), each event once, as the ledger does
(contracts/seen.py): an ad that was answered and never displayed counts for nothing. The kill switch leaves them in force: they
are promises to advertisers and users, not experiments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.seen import Outcome

MAX_HOURS = 720.0
_MS_AN_HOUR = 3_600_000.0
Hours = Annotated[float, Field(gt=0, le=MAX_HOURS, allow_inf_nan=False)]


class Cap(BaseModel):
    """impressions: an ad that one user has had so often within `hours` is not answered; after_click_hours,
    after_conversion_hours: nor one with such an outcome within them. all_domains: outcomes of every domain count, not of this one
    alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    impressions: Annotated[int, Field(ge=1, le=100)] | None = None
    hours: Hours = 24.0
    after_click_hours: Hours | None = None
    after_conversion_hours: Hours | None = None
    all_domains: bool = False
    active: bool = True
    description: str = ""

    @model_validator(mode="after")
    def _caps_something(self) -> Self:
        if self.impressions is self.after_click_hours is self.after_conversion_hours is None:
            raise ValueError("a cap needs impressions, after_click_hours or after_conversion_hours")
        return self

    @property
    def looks_back_hours(self) -> float:
        quiet = (self.after_click_hours or 0.0, self.after_conversion_hours or 0.0)
        return max(self.hours if self.impressions is not None else 0.0, *quiet)

    def barred(self, domain: str, outcomes: Iterable[Outcome], now_ms: float) -> list[str]:
        """Ads that the user may not be answered in `domain` now, in the order in which they came to be barred."""
        quiet_hours = {"click": self.after_click_hours, "conversion": self.after_conversion_hours}
        shown: Counter[str] = Counter()
        found: dict[str, None] = {}
        for one in outcomes:
            if not self.all_domains and one.domain != domain:
                continue
            hours = (now_ms - one.at_ms) / _MS_AN_HOUR
            if one.type == "impression":
                if self.impressions is not None and hours < self.hours:
                    shown[one.ad_id] += 1
                    if shown[one.ad_id] >= self.impressions:
                        found[one.ad_id] = None
            elif hours < (quiet_hours.get(one.type) or 0.0):
                found[one.ad_id] = None
        return list(found)


def counts_of(caps: Mapping[str, Cap], domain: str) -> bool:
    """Does any cap count outcomes of this domain?"""
    return any(one.active and (one.all_domains or name == domain) for name, one in caps.items())


def looks_back_seconds(caps: Mapping[str, Cap]) -> int:
    """Of all that are active; 0 for none."""
    return round(3600 * max((one.looks_back_hours for one in caps.values() if one.active), default=0.0))
