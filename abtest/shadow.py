"""A shadow: a recipe that answers a share of one domain's requests in the background, to be compared and never served.

    shadows:
      next-ranker: {domain: feed, recipe: adi+dsfm, bundle: kuairand.adi+dsfm.20220504.1a2b3c4d, share: 0.1}

They stand beside the features of the definitions (definitions.py): one version, one audit trail, one announcement for both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from abtest.buckets import bucket
from abtest.histogram import MILLISECONDS

Name = Annotated[str, Field(min_length=1)]


class Shadow(BaseModel):
    """share: of the domain's requests, by a hash of their id. bundle: the one that answers, that of the recipe's alias where
    it is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: Name
    recipe: Name
    bundle: Name | None = None
    share: Annotated[float, Field(gt=0, le=1)]
    active: bool = True
    description: str = ""

    def takes(self, key: str, request_id: str) -> bool:
        """A larger share takes the same requests, and more."""
        position = bucket(f"shadow {key}", request_id)
        return position is not None and position < self.share


class Answered(Protocol):
    """An ad of a slate."""

    @property
    def ad_id(self) -> str: ...
    @property
    def p_click(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """overlap: None where both slates are empty; rank_correlation: None below two shared ads; differences: shadow's p_click
    less the served one, of shared ads that have both."""

    overlap: float | None
    rank_correlation: float | None
    differences: tuple[float, ...]


def compare(served: Sequence[Answered], shadow: Sequence[Answered]) -> Comparison:
    """overlap: ads in both, over the longer slate's length. rank_correlation: Kendall's tau over the ads in both (Kendall 1938,
    Biometrika 30): pairs in the same order less pairs in opposite order, over all pairs."""
    longest = max(len(served), len(shadow))
    places = {one.ad_id: at for at, one in enumerate(shadow)}
    shared = [(one, shadow[places[one.ad_id]]) for one in served if one.ad_id in places]
    differences = tuple(
        theirs.p_click - mine.p_click for mine, theirs in shared if mine.p_click is not None and theirs.p_click is not None
    )
    order_S = np.array([places[mine.ad_id] for mine, _ in shared], dtype=np.int64)
    return Comparison(len(shared) / longest if longest else None, _tau(order_S), differences)


def _tau(order_S: NDArray[np.int64]) -> float | None:
    """order_S: (S,) place in the other slate, of ads in the order of this one; no two alike."""
    pairs = len(order_S) * (len(order_S) - 1) // 2
    if not pairs:
        return None
    later_SS = np.triu(order_S[None, :] > order_S[:, None], 1)
    return float(2 * np.count_nonzero(later_SS) / pairs - 1)


@dataclass
class ShadowCounts:
    """What workers add up of one shadow and bundle, as fields of a Redis hash. outcomes: "compared", and why others were not."""

    fields: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def compared(self, found: Comparison, shadow_ms: float, served_ms: float, degraded: bool) -> None:
        add = self.fields
        add["compared"] += 1
        add["degraded"] += degraded
        if found.overlap is not None:
            add["overlap n"] += 1
            add["overlap sum"] += found.overlap
        if found.rank_correlation is not None:
            add["tau n"] += 1
            add["tau sum"] += found.rank_correlation
        if found.differences:
            add["p_click n"] += len(found.differences)
            add["p_click sum"] += sum(found.differences)
            add["p_click abs sum"] += sum(map(abs, found.differences))
        add[f"shadow ms {MILLISECONDS.bin(shadow_ms)}"] += 1
        add[f"served ms {MILLISECONDS.bin(served_ms)}"] += 1

    def other(self, outcome: str) -> None:
        self.fields[outcome] += 1


FAILURES = ("failed", "timeout")
DROPPED = ("queue_full", "stuck", "loading")


def summary(fields: Mapping[str, float]) -> dict[str, float | int | dict[str, int] | None]:
    """What an operator reads of the counts of all workers; a mean of nothing is None, not 0."""

    def mean(name: str, total: str = "sum") -> float | None:
        n = fields.get(f"{name} n", 0)
        return fields.get(f"{name} {total}", 0.0) / n if n else None

    def times(of: str) -> dict[int, int]:
        start = f"{of} ms "
        return {int(name.removeprefix(start)): int(count) for name, count in fields.items() if name.startswith(start)}

    shadow, served = times("shadow"), times("served")
    return {
        "compared": int(fields.get("compared", 0)),
        "degraded": int(fields.get("degraded", 0)),
        "errors": {name: int(fields[name]) for name in FAILURES if name in fields},
        "dropped": {name: int(fields[name]) for name in DROPPED if name in fields},
        "mean_overlap": mean("overlap"),
        "mean_rank_correlation": mean("tau"),
        "mean_p_click_difference": mean("p_click"),
        "mean_absolute_p_click_difference": mean("p_click", "abs sum"),
        "shadow_p50_ms": MILLISECONDS.quantile(shadow, 0.5),
        "shadow_p99_ms": MILLISECONDS.quantile(shadow, 0.99),
        "served_p50_ms": MILLISECONDS.quantile(served, 0.5),
        "served_p99_ms": MILLISECONDS.quantile(served, 0.99),
    }
