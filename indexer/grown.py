"""An index and a few more ads after its own: what is added by day to an index that a night built.

The added ads are compared one and all, which is exact and cheap while they are few, and the best of both are merged.
"""

from __future__ import annotations

import numpy as np

from contracts.errors import BadInput
from indexer.index import ExactIndex, Found, Index, Mask, Matrix, checked, ordered


class GrownIndex:
    """Rows 0 .. N-1 are those of `base` (N ads), row N + m is added_ME[m]. The base is neither copied nor changed."""

    def __init__(self, base: Index, added_ME: Matrix) -> None:
        """added_ME: (M, E) float32, M at least 1. Raises BadInput when it does not fit the base, or holds NaN or infinity."""
        self.base, self.added = base, ExactIndex(added_ME)
        if self.added.dimension != base.dimension:
            raise BadInput(f"added ads have {self.added.dimension} dimensions, the index {base.dimension}")
        if not np.isfinite(added_ME).all():
            raise BadInput("vectors of added ads hold NaN or infinity")

    @property
    def size(self) -> int:
        return self.base.size + self.added.size

    @property
    def dimension(self) -> int:
        return self.base.dimension

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        query_BE, width, eligible_N = checked(self, query_BE, k, eligible_N)
        own = self.base.size
        first = self.base.search(query_BE, k, None if eligible_N is None else eligible_N[:own])
        second = self.added.search(query_BE, k, None if eligible_N is None else eligible_N[own:])
        scores_BK = np.concatenate([first.scores, second.scores], axis=1)
        rows_BK = np.concatenate([first.rows, np.where(second.rows < 0, second.rows, second.rows + own)], axis=1)
        best = ordered(scores_BK, rows_BK)
        return Found(best.scores[:, :width], best.rows[:, :width])
