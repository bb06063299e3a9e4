"""Intervals that hold at every look at once, so that a report may be read each morning and acted upon on any of them.

An asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and
asymptotic confidence sequences", Annals of Statistics 2024 (arXiv 2103.06476), Theorem 2.2; the p-value is 1 over its
e-value (Robbins' normal mixture, Annals of Mathematical Statistics 41, 1970). Wider than the fixed-horizon interval:
at the number of units that it is tuned for about 1.5 times, elsewhere more.
"""

from __future__ import annotations

import math

from abtest.estimate import Estimate, Result
from abtest.stats import NotComputable


def sequential(fixed: Result, units: int, planned_units: int, confidence: float = 0.95) -> Result:
    """fixed: a difference or lift with its variance; units: users of both arms behind it; planned_units: where the sequence
    is to be narrowest, chosen before the start. Raises ValueError unless both are positive."""
    if isinstance(fixed, NotComputable):
        return fixed
    if units <= 0 or planned_units <= 0:
        raise ValueError(f"{units} units, planned for {planned_units}: both must be positive")
    if fixed.variance is None:
        raise ValueError("the estimate has no variance: give a difference or a lift")
    scale = 1 + units * _rho_squared(planned_units, 1 - confidence)
    half = half_width(fixed.variance, units, planned_units, confidence)
    evidence = fixed.value**2 / fixed.variance * (scale - 1) / (2 * scale) - math.log(scale) / 2
    return Estimate(
        fixed.value, fixed.value - half, fixed.value + half, math.exp(min(-evidence, 0.0)), fixed.variance, fixed.degrees,
    )  # fmt: skip


def half_width(variance: float, units: float, planned_units: int, confidence: float = 0.95) -> float:
    """sqrt(2 (t rho^2 + 1) / (t^2 rho^2) log(sqrt(t rho^2 + 1) / alpha)) times the spread of one of t units, sqrt(t * variance).
    variance: the squared standard error."""
    scale = 1 + units * _rho_squared(planned_units, 1 - confidence)
    return math.sqrt(variance * 2 * scale / (scale - 1) * math.log(math.sqrt(scale) / (1 - confidence)))


def _rho_squared(planned_units: int, alpha: float) -> float:
    """The tuning that makes the sequence narrowest near planned_units, in closed form (arXiv 2103.06476, appendix on the
    choice of rho)."""
    return (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned_units
