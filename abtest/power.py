"""How large an effect can be seen, how many users and days that takes: before the start from what users did until now.

Two-sided normal test of equal arms' spreads (Cohen 1988, "Statistical Power Analysis", chapter 2; Kohavi, Tang & Xu 2020,
"Trustworthy Online Controlled Experiments", eq. 17.8). Effects are relative to the control, as the report's lifts are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import special

from abtest.estimate import Estimate, Result
from abtest.stats import Moment, NotComputable

_HORIZON = 3_650  # days


@dataclass(frozen=True)
class Baseline:
    """One metric without any change: its value, and the variance of one unit's contribution to it."""

    value: float
    unit_variance: float

    @classmethod
    def of(cls, moment: Moment | NotComputable, units: int, gain: float = 0.0) -> Baseline | NotComputable:
        """moment: of `units` users; gain: the share of the variance that CUPED takes off."""
        if isinstance(moment, NotComputable):
            return moment
        if moment.value <= 0:
            return NotComputable("the metric's value is not positive, so no effect can be relative to it")
        if moment.variance <= 0:
            return NotComputable("no variation between units, so no error can be estimated")
        return cls(moment.value, moment.variance * units * (1 - gain))

    def error(self, treated: float, control: float, lift: float = 0.0) -> float:
        """Standard error of the lift with that many users in either arm. A true lift scales the treated users' spread, and by
        the delta method (arXiv 1803.06336, section 3) what the control's spread does to the lift, both by 1 + lift."""
        return (1 + lift) * math.sqrt(self.unit_variance * (1 / treated + 1 / control)) / self.value


def power_of(lift: float, error: float, confidence: float = 0.95) -> float:
    """Chance that a true lift (a fraction) with this standard error is found different from 0, on either side."""
    z, shift = _z(confidence), abs(lift) / error
    return float(special.ndtr(shift - z) + special.ndtr(-shift - z))


def detectable(error: float, power: float = 0.8, confidence: float = 0.95) -> float:
    """The minimal detectable rise: the least lift that is found with this power; infinite where a rise widens the interval as
    fast as it grows. error: of the lift when there is none. The far side's chance (below 1e-6 from a power of .5 on) is
    left out."""
    shift = (_z(confidence) + float(special.ndtri(power))) * error
    return shift / (1 - shift) if shift < 1 else math.inf


def units_needed(baseline: Baseline, lift: float, share: float = 0.5, power: float = 0.8, confidence: float = 0.95) -> int:
    """Users of both arms together that find `lift`, when `share` of them is treated. Raises ValueError on a lift of 0."""
    if lift == 0:
        raise ValueError("no number of users shows a lift of 0")
    wanted = abs(lift) / (_z(confidence) + float(special.ndtri(power)))  # the standard error that is small enough
    return math.ceil((baseline.error(share, 1 - share, lift) / wanted) ** 2)


def days_to_decision(
    now: Result, days: float, lift: float | None, half_width: Callable[[float, float], float], power: float = 0.8,
) -> float | NotComputable:  # fmt: skip
    """More days until a true `lift` would be found with this power, from the interval after `days` days; 0 when it is now.
    half_width(variance, growth): of the interval that is judged by, once there is `growth` times the present data.
    Assumes that the variance goes on falling, and units on coming, with the days."""
    if not isinstance(now, Estimate):
        return now
    if lift is None:
        return NotComputable("the plan names no least lift worth finding")
    if now.variance is None or days <= 0:
        return NotComputable("no day is complete")
    growth, reserve = 1.0, float(special.ndtri(power))
    while half_width(now.variance / growth, growth) + reserve * math.sqrt(now.variance / growth) > lift:
        growth *= 1.02
        if days * growth > _HORIZON:
            return NotComputable(f"it would take more than {_HORIZON:,} days")
    return days * (growth - 1)


def _z(confidence: float) -> float:
    return float(special.ndtri((1 + confidence) / 2))
