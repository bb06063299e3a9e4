"""Giving an experiment more traffic without moving anybody between arms.

More coverage extends every arm's range to the right, which moves nobody. Other shares (90:10 to 50:50) cannot be had by
changing `weights`, whose ranges would slide over each other; they need explicit `ranges` that contain the old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from abtest.buckets import Range, choose_variation
from abtest.definitions import Definitions, Rule
from contracts.errors import BadInput

_STEPS = {1: 1_000, 2: 10_000}  # positions that each hash version can give
_ROUNDING = 1e-9


def ramp(definitions: Definitions, key: str, coverage: float | None = None, shares: Sequence[float] | None = None) -> Definitions:
    """coverage: share of all units in the experiment, split as its weights say. shares: each arm's share of all units.
    Raises BadInput when the shares cannot be reached without moving units."""
    rule = definitions.experiment(key)
    changes: dict[str, Any] = {}
    if coverage is not None:
        if rule.ranges is not None:
            raise BadInput(f"experiment {key!r} has explicit ranges, which coverage does not change", "ramp it by shares")
        present = 1.0 if rule.coverage is None else rule.coverage
        if coverage < present:
            raise BadInput(f"experiment {key!r}: coverage {coverage} is below its present {present}", "ramping only adds units")
        changes["coverage"] = coverage
    if shares is not None:
        changes["ranges"] = grown_ranges(rule.spans(), shares)
    return definitions.amend(key, **changes)


def grown_ranges(spans: Sequence[Range], shares: Sequence[float]) -> list[Range]:
    """One range an arm, as long as its share, each containing the arm's old range. Leftmost fit, which leaves the
    most room for the arms after it. Raises BadInput when there is none."""
    if len(shares) != len(spans):
        raise BadInput(f"{len(shares)} shares for {len(spans)} arms", "give one share an arm")
    grown: list[Range] = []
    free = 0.0
    for arm, ((start, end), share) in enumerate(zip(spans, shares, strict=True)):
        if share < end - start - _ROUNDING:
            raise BadInput(f"arm {arm}: share {share} is below its present {end - start:.4g}", "ramping only adds units")
        left, right = free, free + share
        if end > start:
            left = max(free, min(start, end - share))
            right = max(left + share, end)
        limit = min((later for later, close in spans[arm + 1 :] if close > later), default=1.0)
        if right > limit + _ROUNDING:
            raise BadInput(f"arm {arm}: share {share} does not fit without moving units", "lower the earlier shares")
        free = min(right, limit)
        grown.append((left, free))
    return grown


def moved_share(before: Rule, after: Rule) -> float:
    """Share of all units that are in one arm before and in another after; exact, over every position of the hash.
    A draft has met nobody, so nothing of it can move."""
    if before.status == "draft":
        return 0.0
    if not _same_hash(before, after):
        spans = before.spans()
        return sum(end - start for start, end in spans)
    old, new = before.spans(), after.spans()
    steps = _STEPS.get(before.hashVersion, 0)
    moved = 0
    for step in range(steps):
        left, right = choose_variation(step / steps, old), choose_variation(step / steps, new)
        moved += left >= 0 and right >= 0 and before.arm(left) != after.arm(right)
    return moved / steps if steps else 0.0


def _same_hash(before: Rule, after: Rule) -> bool:
    """Does every unit keep its position? A missing seed means the experiment's key, which is the same here."""
    left, right = ((rule.seed or None, rule.hashVersion, rule.hashAttribute) for rule in (before, after))
    return left == right
