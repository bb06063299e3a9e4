"""Where a unit falls on [0, 1): GrowthBook's hash, ranges and namespaces (its SDK specification, "Helper Functions";
https://docs.growthbook.io/lib/build-your-own). No state: the same seed and unit give the same bucket everywhere.

Arm i owns [start_i, start_i + coverage * weight_i) with start_i = the sum of the earlier weights. Raising the coverage
only moves the right ends, so that a unit that has met an arm keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from urllib.parse import parse_qs, urlsplit

Range = tuple[float, float]

_OFFSET = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def fnv1a(text: str, state: int = _OFFSET) -> int:
    """32-bit FNV-1a over UTF-16 code units, which is what a browser counts in (for ASCII the same as over bytes);
    `state` continues an earlier hash."""
    units: Iterable[int] = text.encode() if text.isascii() else memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
    for unit in units:
        state = ((state ^ unit) * _PRIME) & _MASK
    return state


_seed_state = lru_cache(maxsize=1024)(fnv1a)  # seeds are few and come with every request


def bucket(seed: str, value: str, version: int = 2) -> float | None:
    """Position of a unit in [0, 1); None for an unknown hash version. Version 1 has 1,000 steps and is biased between
    experiments that run at once; version 2 has 10,000 and is not."""
    if version == 2:
        return fnv1a(str(fnv1a(value, _seed_state(seed)))) % 10_000 / 10_000
    if version == 1:
        return fnv1a(value + seed) % 1_000 / 1_000
    return None


def in_range(position: float, span: Range) -> bool:
    return span[0] <= position < span[1]


def equal_weights(arms: int) -> list[float]:
    return [1.0 / arms] * arms if arms > 0 else []


def bucket_ranges(arms: int, coverage: float = 1.0, weights: Sequence[float] | None = None) -> list[Range]:
    """One range an arm. Coverage is clipped to [0, 1]; weights of a wrong length or sum become equal ones."""
    return list(_ranges(arms, coverage, None if weights is None else tuple(weights)))


@lru_cache(maxsize=1024)
def _ranges(arms: int, coverage: float, weights: tuple[float, ...] | None) -> tuple[Range, ...]:
    coverage = min(max(coverage, 0.0), 1.0)
    if weights is None or len(weights) != arms or not 0.99 <= sum(weights) <= 1.01:
        weights = tuple(equal_weights(arms))
    starts = accumulate(weights, initial=0.0)
    return tuple((start, start + coverage * weight) for start, weight in zip(starts, weights, strict=False))


def choose_variation(position: float, ranges: Sequence[Range]) -> int:
    """Index of the range that holds the position, or -1."""
    for index, (start, end) in enumerate(ranges):
        if start <= position < end:
            return index
    return -1


def in_namespace(value: str, namespace: tuple[str, float, float]) -> bool:
    """Mutually exclusive experiments own disjoint parts of one namespace."""
    name, start, end = namespace
    position = bucket(f"__{name}", value, 1)
    return position is not None and start <= position < end


def query_string_override(key: str, url: str, arms: int) -> int | None:
    """The arm that a tester asked for as `?key=1` in the page's address."""
    values = parse_qs(urlsplit(url).query).get(key)
    if not values or not (values[0].isascii() and values[0].isdigit()):
        return None
    return int(values[0]) if int(values[0]) < arms else None
