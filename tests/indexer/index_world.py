"""Every index over given vectors. Without a GPU, the GPU index runs on a stand-in device that has a GPU's limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np

from indexer.build import FARTHEST, build_index
from indexer.coded import CodedIndex
from indexer.gpu import FaissGpuIndex, gpu_count
from indexer.grown import GrownIndex
from indexer.index import FaissCpuIndex, Index, Matrix
from indexer.policy import IndexSpec

MakeIndex = Callable[[Matrix], Index]


def flat(vectors: Matrix) -> FaissCpuIndex:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return FaissCpuIndex(index, None)


def exact(vectors: Matrix) -> Index:
    return build_index(vectors, vectors[:1], IndexSpec("exact"), "test", 1, 0.0, seed=0)[0]


def ivf(vectors: Matrix, nlist: int = 0, nprobe: int = 0) -> FaissCpuIndex:
    """By default every list is visited, which makes IVF exact, whatever its clusters."""
    nlist = nlist or max(1, min(8, len(vectors) // 8))
    spec = IndexSpec("ivf_flat", nlist, nprobe or nlist)
    index, _ = build_index(vectors, vectors[:1], spec, "test", 1, 0.0, seed=0)
    assert isinstance(index, FaissCpuIndex)
    return index


def coded(vectors: Matrix, nlist: int = 0, reach: int = FARTHEST) -> CodedIndex:
    """By default it reaches every ad."""
    index, _ = build_index(
        vectors,
        vectors[:1],
        IndexSpec("ivf_int8", nlist or max(1, min(8, len(vectors) // 8)), reach=reach),
        "test",
        1,
        0.0,
        seed=0,
    )
    assert isinstance(index, CodedIndex)
    return index


class StandInDevice:
    """What a FAISS GPU index can do: at most 2,048 results (512 of 8-bit codes) and lists, no mask, one search at a time."""

    _busy = threading.Lock()  # the device's, not the index's

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(self, query: Matrix, k: int, params: Any = None) -> tuple[np.ndarray, np.ndarray]:
        coded = isinstance(self._index, faiss.IndexIVFScalarQuantizer)
        assert k <= (512 if coded else 2048) and getattr(params, "nprobe", 0) <= 2048 and getattr(params, "sel", None) is None
        assert self._busy.acquire(blocking=False), "two searches at once on one GPU"
        try:
            time.sleep(0)  # invite another thread in
            found: tuple[np.ndarray, np.ndarray] = self._index.search(query, k, params=params)
            return found
        finally:
            self._busy.release()


def gpu(cpu: FaissCpuIndex) -> FaissGpuIndex:
    if gpu_count() > 0:
        return FaissGpuIndex(cpu)
    stand_in = {
        "StandardGpuResources": object,
        "GpuClonerOptions": type("GpuClonerOptions", (), {}),
        "index_cpu_to_gpu": lambda resources, number, index, options: StandInDevice(index),
        "get_num_gpus": lambda: 1,
    }
    with patch.multiple(faiss, create=True, **stand_in):
        return FaissGpuIndex(cpu)


def grown(make: MakeIndex) -> MakeIndex:
    """A third of the ads, at least one, added to an index over the others; a single ad cannot be both."""

    def made(vectors: Matrix) -> Index:
        own = len(vectors) - max(1, len(vectors) // 3)
        return GrownIndex(make(vectors[:own]), vectors[own:]) if own else make(vectors)

    return made


MAKERS: dict[str, MakeIndex] = {
    "exact": exact,
    "flat": flat,
    "ivf_flat": ivf,
    "ivf_int8": coded,
    "gpu_flat": lambda vectors: gpu(flat(vectors)),
    "gpu_ivf": lambda vectors: gpu(ivf(vectors)),
    "grown_exact": grown(exact),
    "grown_ivf": grown(ivf),
    "grown_gpu": grown(lambda vectors: gpu(ivf(vectors))),
}
