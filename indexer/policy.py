"""Which index for which domain: a plain function that says why.

Measured, 64 dimensions, k = 500, one core, ms a query: 10k ads exact .2 (FAISS Flat is slower); 100k IVF316,Flat nprobe 8
.135 (exact 1.5); 1M IVF4000,SQ8 nprobe 32 .27 at a quarter of the memory (exact 26). HNSW was 3-5x slower than IVF at this k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

IndexKind = Literal["exact", "ivf_flat", "ivf_sq8"]

EXACT_BELOW = 20_000  # ads
SQ8_ABOVE = 300_000  # ads
_WIDE_ANSWER = 0.1  # wanting more than this share of the ads, most lists would be visited anyway
_LEAST_NPROBE = 8


@dataclass(frozen=True)
class IndexSpec:
    """nlist: inverted lists; nprobe: lists first tried, raised by the build until the recall gate is met (0 for exact)."""

    kind: IndexKind
    nlist: int = 0
    nprobe: int = 0
    reason: str = ""


def choose(n: int, dimension: int, k: int) -> IndexSpec:
    """The index for n ads of `dimension` float32 values, of which a request wants k."""
    megabytes = n * dimension * 4 / 2**20
    if n < EXACT_BELOW:
        return IndexSpec("exact", reason=f"{n} ads are fewer than {EXACT_BELOW}: exact search is as fast as any and misses none")
    if k > _WIDE_ANSWER * n:
        return IndexSpec("exact", reason=f"{k} of {n} ads wanted: an approximate index would visit most lists anyway")
    if n <= SQ8_ABOVE:
        nlist = round(math.sqrt(n))
        reason = f"{n} ads: {nlist} lists of about {nlist}; unquantised vectors fit ({megabytes:.0f} MiB)"
        return IndexSpec("ivf_flat", nlist, _first_nprobe(n, nlist, k), reason)
    nlist = round(4 * math.sqrt(n))
    memory = f"{megabytes / 4:.0f} MiB instead of {megabytes:.0f}"
    reason = f"{n} ads are more than {SQ8_ABOVE}: one byte a value ({memory}) is read four times faster"
    return IndexSpec("ivf_sq8", nlist, _first_nprobe(n, nlist, k), reason)


def _first_nprobe(n: int, nlist: int, k: int) -> int:
    """Lists that hold about 2k ads together, at least the measured minimum."""
    return min(nlist, max(_LEAST_NPROBE, math.ceil(2 * k * nlist / n)))
