"""How far has a distribution moved? The population stability index, and how much of it is chance.

PSI = sum over groups of (p - q) ln(p / q), the two directed Kullback-Leibler divergences added up (Jeffreys 1946); q: the
reference's shares, in groups of about a tenth each. Below .1 it is customary to speak of no change, above .25 of a large one
(Siddiqi, Credit Risk Scorecards, 2006). Without any change it is distributed as (1/n + 1/m) chi-square with groups - 1 degrees of
freedom (Yurdakul & Naranjo 2020, J. Risk Model Validation 14(4)), so few answers alone make a large one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOVED, DRIFTED = 0.1, 0.25
GROUPS = 10
_EMPTY = 0.5  # a count, in place of none: a share of 0 has no logarithm


def psi(reference: Sequence[int], recent: Sequence[int]) -> float:
    """Counts of the same bins; both have some."""
    groups = _groups(reference)
    before = [max(sum(reference[at] for at in group), _EMPTY) for group in groups]
    now = [max(sum(recent[at] for at in group), _EMPTY) for group in groups]
    shares = [(p / sum(now), q / sum(before)) for p, q in zip(now, before, strict=True)]
    return sum((p - q) * math.log(p / q) for p, q in shares)


def chance(reference: Sequence[int], n: int, m: int) -> float:
    """The PSI to be expected of n and m independent observations of what has not changed."""
    return (len(_groups(reference)) - 1) * (1 / n + 1 / m)


def _groups(reference: Sequence[int]) -> list[list[int]]:
    """Neighbouring bins that hold a tenth of the reference or more together, the rest with the last of them; the empty bins below
    and above are groups, too, or what left the reference's range would not be seen."""
    held = [at for at, count in enumerate(reference) if count]
    least = sum(reference) / GROUPS
    inside: list[list[int]] = []
    group: list[int] = []
    for at in range(held[0], held[-1] + 1):
        group.append(at)
        if sum(reference[one] for one in group) >= least:
            inside.append(group)
            group = []
    inside[-1] += group
    outside = [list(range(held[0])), list(range(held[-1] + 1, len(reference)))]
    return [*inside, *filter(None, outside)]
