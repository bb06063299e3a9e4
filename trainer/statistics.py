"""Statistics features: how often a user, an ad or a declared category was shown and clicked, overall and in each domain.

    impressions  log(1 + n)
    clicks       log(1 + c)
    rate         log((c + s r) / (e + s r)), e = sum_d r_d n_d: clicks against what its domains would give anyone, r_d and r
                 the domain's and the overall rate; in a domain logit((c_d + s p_d) / (n_d + s)) - logit(r_d), where
                 p_d = r_d exp(overall rate feature) is what is expected there of one who is known elsewhere
    recency      log(1 + days since the last impression)

A training row reads what was known when its day began; in data without timestamps, what the other folds know. A row of a
split after `as_of` reads what stood at the end of `as_of`, as a server does on the day after a night. Without an impression
everything is missing: a stranger is the same code in training and at serving.

Values are frozen into quantile bins on a sample of training rows and stored as one byte each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from contracts.schema import AD_ID, USER_ID, FeatureSpec, Side

Array = NDArray[Any]
Owner = Literal["user", "ad"]
PAIR: dict[Owner, Side] = {"user": "user_domain", "ad": "ad_domain"}
STRENGTH = 20.0  # of the priors, in impressions
FOLDS = 5
DAY_MS = 86_400_000
_COUNTED = ("impressions", "clicks", "rate")
_NEVER = -1


@dataclass(frozen=True)
class Counted:
    """What is counted: the values of one column of users or ads. value_E: (E,) int64, each entity's value; -1: it has none."""

    name: str
    owner: Owner
    value_E: Array

    @property
    def values(self) -> int:
        return int(self.value_E.max(initial=0)) + 1


def measures(has_time: bool) -> tuple[str, ...]:
    return (*_COUNTED, "recency") if has_time else _COUNTED


def statistics_specs(features: Sequence[FeatureSpec], has_time: bool) -> tuple[FeatureSpec, ...]:
    """The features derived for user_id, ad_id and every column declared with `statistics: true`, sides in their order."""
    owners: dict[str, Owner] = {USER_ID: "user", AD_ID: "ad"}
    owners |= {one.name: "user" if one.side == "user" else "ad" for one in features if one.statistics}
    found = []
    for name, owner in owners.items():
        for measure in measures(has_time):
            found.append(FeatureSpec(name=f"{name} {measure}", side=owner, kind="numeric"))
            found.append(FeatureSpec(name=f"{name} {measure} in domain", side=PAIR[owner], kind="numeric"))
    return tuple(found)


def local_days(time_ms: Array, timezone: str) -> Array:
    """Day numbers in the dataset's timezone. Its offset is read once, at the first event: a day's edge may be an hour off
    after a change of the clock, and no row sees its own day either way."""
    if len(time_ms) == 0:
        return np.zeros(0, dtype=np.int32)
    first = datetime.fromtimestamp(int(time_ms.min()) / 1000, UTC).astimezone(ZoneInfo(timezone))
    offset = first.utcoffset()
    shift = int(offset.total_seconds() * 1000) if offset else 0
    return ((np.asarray(time_ms) + shift) // DAY_MS).astype(np.int32)


class Counts:
    """What is known of one column's values: impressions and clicks (D, V), and the last day of each."""

    def __init__(self, counted: Counted, domains: int) -> None:
        self.counted = counted
        self.shown_DV = np.zeros((domains, counted.values), dtype=np.float32)
        self.clicked_DV = np.zeros((domains, counted.values), dtype=np.float32)
        self.last_DV = np.full((domains, counted.values), _NEVER, dtype=np.int32)

    def add(self, entity_N: Array, domain_N: Array, label_N: Array, day_N: Array | None = None) -> None:
        value_N = self.counted.value_E[entity_N]
        kept = value_N >= 0
        at = domain_N[kept].astype(np.int64) * self.shown_DV.shape[1] + value_N[kept]
        np.add.at(self.shown_DV.reshape(-1), at, 1.0)
        np.add.at(self.clicked_DV.reshape(-1), at, (label_N[kept] > 0).astype(np.float32))
        if day_N is not None:
            np.maximum.at(self.last_DV.reshape(-1), at, day_N[kept])

    def overall(self, rates: Rates, day: int | None, value_N: Array) -> Array:
        """(N, M) float32 over all domains, columns as `measures`; NaN where nothing is known."""
        shown_V, lift_V = self._lift(rates)
        clicked_V = self.clicked_DV.sum(axis=0)
        columns = [np.log1p(shown_V)[value_N], np.log1p(clicked_V)[value_N], lift_V[value_N]]
        if day is not None:
            columns.append(np.log1p(day - self.last_DV.max(axis=0)[value_N]))
        return _known(columns, (value_N >= 0) & (shown_V[value_N] > 0))

    def in_domain(self, rates: Rates, day: int | None, value_N: Array, domain_N: Array) -> Array:
        """(N, M) float32 in one domain a row. The rate is known of whoever is known anywhere, the rest of who was there."""
        shown_V, lift_V = self._lift(rates)
        shown, clicked = self.shown_DV[domain_N, value_N], self.clicked_DV[domain_N, value_N]
        base = rates.of_D[domain_N]
        prior = np.minimum(base * np.exp(lift_V[value_N]), 0.99)
        rate = _logit((clicked + STRENGTH * prior) / (shown + STRENGTH)) - _logit(base)
        known = (value_N >= 0) & (shown_V[value_N] > 0)
        here = known & (shown > 0)
        columns = [np.where(here, np.log1p(shown), np.nan), np.where(here, np.log1p(clicked), np.nan), rate]
        if day is not None:
            columns.append(np.where(here, np.log1p(day - self.last_DV[domain_N, value_N]), np.nan))
        return _known(columns, known)

    def _lift(self, rates: Rates) -> tuple[Array, Array]:
        """Impressions (V,) and the overall rate feature (V,)."""
        shown_V, expected_V = self.shown_DV.sum(axis=0), rates.of_D @ self.shown_DV
        smoothing = STRENGTH * rates.overall
        return shown_V, np.log((self.clicked_DV.sum(axis=0) + smoothing) / (expected_V + smoothing))


@dataclass(frozen=True)
class Rates:
    """Smoothed click rates: of each domain (D,), and overall."""

    of_D: Array
    overall: float

    @classmethod
    def of(cls, counts: Counts) -> Rates:
        shown_D, clicked_D = counts.shown_DV.sum(axis=1, dtype=np.float64), counts.clicked_DV.sum(axis=1, dtype=np.float64)
        overall = float((clicked_D.sum() + 1.0) / (shown_D.sum() + 2.0))
        return cls((clicked_D + STRENGTH * overall) / (shown_D + STRENGTH), overall)


class Statistics:
    """The counts of every column."""

    def __init__(self, counted: Sequence[Counted], domains: int) -> None:
        self.counts = [Counts(one, domains) for one in counted]
        self.domains = domains

    def like(self) -> Statistics:
        """The same columns, nothing counted."""
        return Statistics([one.counted for one in self.counts], self.domains)

    def add(self, users: Array, ads: Array, domain: Array, label: Array, day: Array | None) -> None:
        for one in self.counts:
            one.add(users if one.counted.owner == "user" else ads, domain, label, day)

    def rows(self, users: Array, ads: Array, domain: Array, day: int | None) -> dict[Side, Array]:
        """Raw values of N events, by side, columns in the order of `statistics_specs`."""
        rates = Rates.of(self.counts[0])
        found: dict[Side, list[Array]] = {}
        for one in self.counts:
            value_N = one.counted.value_E[users if one.counted.owner == "user" else ads]
            found.setdefault(one.counted.owner, []).append(one.overall(rates, day, value_N))
            found.setdefault(PAIR[one.counted.owner], []).append(one.in_domain(rates, day, value_N, domain))
        return {side: np.concatenate(parts, axis=1) for side, parts in found.items()}

    def state(self, owner: Owner, day: int | None) -> Array:
        """(E, M) raw values of every user or ad."""
        rates = Rates.of(self.counts[0])
        mine = [one for one in self.counts if one.counted.owner == owner]
        return np.concatenate([one.overall(rates, day, one.counted.value_E) for one in mine], axis=1)

    def state_in(self, owner: Owner, domain: int, day: int | None) -> Array:
        """(E, M) raw values of every user or ad in one domain."""
        rates = Rates.of(self.counts[0])
        parts = []
        for one in (one for one in self.counts if one.counted.owner == owner):
            value_E = one.counted.value_E
            parts.append(one.in_domain(rates, day, value_E, np.full(len(value_E), domain)))
        return np.concatenate(parts, axis=1)


def _known(columns: Sequence[Array], known: Array) -> Array:
    values = np.stack(columns, axis=1).astype(np.float32)
    values[~known] = np.nan
    return values


def _logit(rate: Array) -> Array:
    return np.log(rate) - np.log1p(-rate)


def by_day(day_N: Array) -> Iterator[tuple[int, Array]]:
    """(day, its rows), days rising."""
    order = np.argsort(day_N, kind="stable")
    days, counts = np.unique(day_N, return_counts=True)
    stops = np.cumsum(counts)
    for day, start, stop in zip(days, stops - counts, stops, strict=True):
        yield int(day), np.sort(order[start:stop])
