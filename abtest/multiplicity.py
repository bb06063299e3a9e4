"""Many questions at once: of twenty comparisons that are all nothing, one is significant at 5%."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p-values such that those below alpha may all be believed with an error of alpha in any of them, whatever their
    dependence (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6)."""
    adjusted: dict[Key, float] = {}
    least = 0.0
    for rank, (key, p_value) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        least = min(max(least, (len(p_values) - rank) * p_value), 1.0)
        adjusted[key] = least
    return {key: adjusted[key] for key in p_values}
