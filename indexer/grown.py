"""An index and a few more ads after its own: what is added by day to an index that a night built.

The added ads are compared one and all, which is exact, and cheap while they are few. Only those above the last of the base's
answer are merged into it.
"""

from __future__ import annotations

import numpy as np

from contracts.errors import BadInput
from indexer.index import NO_ROW, Found, Index, Mask, Matrix, checked


class GrownIndex:
    """Rows 0 .. N-1 are those of `base` (N ads), row N + m is added_ME[m]. The base is neither copied nor changed."""

    def __init__(self, base: Index, added_ME: Matrix) -> None:
        """added_ME: (M, E) float32, M at least 1. Raises BadInput when it does not fit the base, or holds NaN or infinity."""
        if added_ME.ndim != 2 or added_ME.dtype != np.float32 or added_ME.shape[1] != base.dimension or len(added_ME) == 0:
            raise BadInput(f"added ads are {added_ME.dtype} {added_ME.shape}, the index takes float32 (M, {base.dimension})")
        if not np.isfinite(added_ME).all():
            raise BadInput("vectors of added ads hold NaN or infinity")
        self.base, self.added_ME = base, added_ME

    @property
    def size(self) -> int:
        return self.base.size + len(self.added_ME)

    @property
    def dimension(self) -> int:
        return self.base.dimension

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        query_BE, width, eligible_N = checked(self, query_BE, k, eligible_N)
        own = self.base.size
        first = self.base.search(query_BE, k, None if eligible_N is None else eligible_N[:own])
        scores_BM = query_BE @ self.added_ME.T
        if eligible_N is not None:
            scores_BM[:, ~eligible_N[own:]] = -np.inf
        scores_BK = np.full((len(query_BE), width), -np.inf, dtype=np.float32)
        rows_BK = np.full((len(query_BE), width), NO_ROW, dtype=np.int64)
        full = first.scores.shape[1] == width
        for at, scores_M in enumerate(scores_BM):
            new = np.flatnonzero(scores_M > (first.scores[at, -1] if full else -np.inf))  # of equals the base's come first
            both = np.concatenate([first.scores[at], scores_M[new]])
            best = np.argsort(-both, kind="stable")[:width]  # two sorted runs, nearly: few steps
            scores_BK[at, : len(best)] = both[best]
            rows_BK[at, : len(best)] = np.concatenate([first.rows[at], new + own])[best]
        return Found(scores_BK, rows_BK)
