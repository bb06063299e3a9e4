"""Sample ratio mismatch: do the arms hold the users that the weights say, and where not?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import numpy as np
from scipy import special

from abtest.multiplicity import holm
from abtest.stats import NotComputable

SRM_P_VALUE = 0.001  # one sound experiment in a thousand is stopped by mistake; it is looked at often, so less would cry wolf

Units = Mapping[str, int]
"""arm -> users"""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class SrmCheck:
    """Sample ratio mismatch: do the arms hold the units that the weights say? broken: the experiment's numbers mean nothing."""

    chi_square: float
    p_value: float

    @property
    def broken(self) -> bool:
        return self.p_value < SRM_P_VALUE


def srm(units: Units, weights: Mapping[str, float]) -> SrmCheck | NotComputable:
    """Pearson's chi-square of units per arm against the arms' weights (Pearson 1900). An arm of weight 0 with units in it
    is broken whatever the rest says."""
    arms = list(weights)
    total, share = sum(units.get(arm, 0) for arm in arms), sum(weights.values())
    if total == 0 or share <= 0:
        return NotComputable("no units" if total == 0 else "no arm has any weight")
    if any(units.get(arm, 0) and not weights[arm] for arm in arms):
        return SrmCheck(math.inf, 0.0)
    live = [arm for arm in arms if weights[arm] > 0]
    if len(live) < 2:
        return NotComputable("fewer than two arms have any weight")
    expected = np.array([total * weights[arm] / share for arm in live])
    if expected.min() < 5:
        return NotComputable("chi-square needs five expected units or more in every arm (Cochran 1954)")
    found = np.array([units.get(arm, 0) for arm in live])
    chi_square = float(np.square(found - expected).dot(1 / expected))
    return SrmCheck(chi_square, float(special.chdtrc(len(live) - 1, chi_square)))


@dataclass(frozen=True)
class Diagnosis:
    """Where the mismatch is, in sentences; empty while no domain and no day stands out. domains, days: those that do, each
    family corrected by Holm, so that many domains or days raise no alarm by their number."""

    domains: dict[str, SrmCheck]
    days: dict[date, SrmCheck]
    words: list[str]


def diagnose(by_domain: Mapping[str, Units], by_day: Mapping[date, Units], weights: Mapping[str, float]) -> Diagnosis:
    """by_domain, by_day: the users seen there, each of whom may be seen in several; weights: of the phase they are from."""
    domains, days = _standing_out(by_domain, weights), _standing_out(by_day, weights)
    words = [f"in {domain}: {_words(by_domain[domain], weights)}" for domain in domains]
    if domains and len(domains) == len(by_domain) > 1:
        words.append("every domain is off: look at the assignment or at the logging of one arm, not at a domain")
    if days:
        first, every = min(days), sorted(by_day)
        since = [day for day in every if day >= first]
        words.append(
            f"on {len(days)} of {len(every)} days, first on {first}: {_words(by_day[first], weights)}"
            + (", and on each day since" if len(since) > 1 and all(day in days for day in since) else "")
        )
    return Diagnosis(domains, days, words)


def _standing_out(parts: Mapping[Key, Units], weights: Mapping[str, float]) -> dict[Key, SrmCheck]:
    checks = {key: one for key, units in parts.items() if isinstance(one := srm(units, weights), SrmCheck)}
    adjusted = holm({key: one.p_value for key, one in checks.items()})
    return {key: one for key, one in checks.items() if adjusted[key] < SRM_P_VALUE}


def _words(units: Units, weights: Mapping[str, float]) -> str:
    """The arm that is furthest from its share."""
    total, share = sum(units.get(arm, 0) for arm in weights), sum(weights.values())
    expected = {arm: total * weight / share for arm, weight in weights.items()}
    arm = max(expected, key=lambda one: abs(units.get(one, 0) - expected[one]) / math.sqrt(max(expected[one], 1.0)))
    return f"{arm!r} has {units.get(arm, 0):,} users where {expected[arm]:,.0f} of {total:,} are expected"
