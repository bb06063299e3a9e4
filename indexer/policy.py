"""Which indices are worth trying for a domain: a plain function of its size. What is fastest is measured (sweep.py).

Measured, 64 dimensions, k = 500, one core: below 20,000 ads a matrix product and a partition take a few tenths of a
millisecond, and no index that misses less than one in twenty beat it. HNSW was 3-5x slower than IVF at this k, FAISS's 4-bit
codes scanned in registers about as fast as coded lists without their rule to stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from contracts.manifest import IndexKind

EXACT_BELOW = 20_000  # ads
_WIDE_ANSWER = 0.1  # wanting more than this share of the ads, most lists would be visited anyway
_LEAST_NPROBE = 8
_FIRST_REACH = 150  # hundredths of a deviation
_LISTS_PER_ROOT = (1, 4)  # inverted lists tried, in square roots of the number of ads


@dataclass(frozen=True)
class IndexSpec:
    """nlist: inverted lists; nprobe: lists first tried of FAISS's, reach: how far coded lists first reach (coded.py): either is
    raised by the build until the recall gate is met, and 0 where the kind has none."""

    kind: IndexKind
    nlist: int = 0
    nprobe: int = 0
    reach: int = 0

    def bytes(self, n: int, dimension: int) -> int:
        """Memory of the index over n ads of `dimension` values: vectors, ids, centroids."""
        if self.kind == "exact":
            return n * dimension * 4
        if self.kind == "ivf_int8":  # whole vectors beside the codes
            return n * (dimension * 4 + -(-dimension // 32) * 32 + 4) + self.nlist * (dimension * 4 + 12)
        value_bytes = 4 if self.kind == "ivf_flat" else 1
        return n * (dimension * value_bytes + 8) + self.nlist * dimension * 4


EXACT = IndexSpec("exact")


def candidates(n: int, dimension: int, k: int, memory_bytes: int) -> list[IndexSpec]:
    """What may win for n ads of `dimension` float32 values, of which a request wants k; what is likely to win first.

    Exact search alone where it is sure to win: then nothing has to be measured. Specs over the memory budget are left
    out; if all are, the smallest is tried.
    """
    if n < EXACT_BELOW or k > _WIDE_ANSWER * n:
        return [EXACT]
    nlists = [round(roots * math.sqrt(n)) for roots in _LISTS_PER_ROOT]
    specs = [EXACT, *(IndexSpec("ivf_int8", nlist, reach=_FIRST_REACH) for nlist in nlists)]
    for nlist in nlists:
        nprobe = _first_nprobe(n, nlist, k)
        specs += [IndexSpec("ivf_flat", nlist, nprobe), IndexSpec("ivf_sq8", nlist, nprobe)]
    fitting = [spec for spec in specs if spec.bytes(n, dimension) <= memory_bytes]
    return fitting or [min(specs, key=lambda spec: spec.bytes(n, dimension))]


def _first_nprobe(n: int, nlist: int, k: int) -> int:
    """Lists that hold about 2k ads together, at least the measured minimum."""
    return min(nlist, max(_LEAST_NPROBE, math.ceil(2 * k * nlist / n)))
