"""Who is a unit, and what is remembered of it: the arm it has met in each sticky experiment (GrowthBook's sticky buckets)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abtest.definitions import Split

Json = Any
Unit = tuple[str, str]  # attribute and its value as hashed
Memory = Mapping[Unit, Mapping[str, str]]  # of each unit, by memory_name, the arm it has met


@dataclass(frozen=True, slots=True)
class Kept:
    """What a sticky experiment asks to remember of a unit."""

    unit: Unit
    name: str
    arm: str

    def known(self, memory: Memory) -> bool:
        return memory.get(self.unit, {}).get(self.name) == self.arm


def memory_name(experiment: str, version: int) -> str:
    return f"{experiment}__{version}"


def hash_value(attributes: Mapping[str, Json], name: str) -> str:
    """The unit as text; "" where there is none: only strings and finite numbers other than 0 name one. Whole floats and
    ints are one unit."""
    value = attributes.get(name)
    if isinstance(value, str):
        return value
    if not value or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() else str(value)) if math.isfinite(value) else ""
    return str(value)


def units(attributes: Mapping[str, Json], split: Split) -> list[Unit]:
    """Under which units a sticky experiment's arms are remembered, the one that counts first."""
    names = (split.hashAttribute, split.fallbackAttribute)
    found = [(name, hash_value(attributes, name)) for name in names if name is not None]
    return [unit for unit in found if unit[1]]


def unit_of(attributes: Mapping[str, Json], split: Split, sticks: bool) -> Unit:
    """The unit that is hashed; its value is "" where it has none. Only what sticks may fall back to another attribute."""
    found = units(attributes, split) if sticks else []
    return found[0] if found else (split.hashAttribute, hash_value(attributes, split.hashAttribute))


def remembered(memory: Memory, attributes: Mapping[str, Json], split: Split, experiment: str) -> int | None:
    """Index of the arm the unit has met, None when it met none (or one that is gone); -1 where it met the experiment in a
    version below minBucketVersion: such units are let out of it."""
    arms: dict[str, str] = {}
    for unit in reversed(units(attributes, split)):
        arms.update(memory.get(unit, {}))
    if any(memory_name(experiment, version) in arms for version in range(split.minBucketVersion)):
        return -1
    met = arms.get(memory_name(experiment, split.bucketVersion))
    return split.arms.index(met) if met in split.arms else None
