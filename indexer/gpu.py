"""The GPU index: a copy of a CPU index in device memory, and that CPU index beside it.

A FAISS GPU index is not safe for concurrent search (faiss #367), nor are the scratch resources it shares with others on
its device: one lock a device. It knows no eligibility mask, and no k or nprobe above its limits: a masked search fetches more
and filters, and whatever the device cannot answer in full goes to the CPU.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from contracts.errors import BadInput
from indexer.index import NO_ROW, FaissCpuIndex, Found, Mask, Matrix, checked, ordered, search_parameters

_LIMIT = 2048  # GPU selection kernels keep at most this many results, and visit at most this many lists
# Of inverted lists of 8-bit codes: beyond it FAISS 1.15 asks for more shared memory than a block has by default, and the process
# ends (an H200: k = 625 and 1,072).
_CODED_LIMIT = 512
_SPARE = 1.5  # fetched over what a random mask would need


class _Device:
    """Scratch memory and the lock of one GPU, shared by all indices on it."""

    def __init__(self, number: int) -> None:
        self.number, self.lock, self.resources = number, threading.Lock(), faiss.StandardGpuResources()


@cache
def _device(number: int) -> _Device:
    return _Device(number)


def gpu_count() -> int:
    """GPUs that this process's FAISS can use: 0 with faiss-cpu, and with faiss-gpu where there is no driver."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def device_number(device: str) -> int:
    """The N of "gpu:N"; "gpu" is the first."""
    name, _, number = device.partition(":")
    if name != "gpu" or not (number or "0").isdecimal():
        raise BadInput(f"device {device!r} is unknown", "use cpu, gpu or gpu:N")
    return int(number or "0")


class FaissGpuIndex:
    """`cpu`, whose lists lie in memory (mapped ones cannot be cloned), copied to one GPU. Scores agree with the CPU's up to
    float32 rounding."""

    def __init__(self, cpu: FaissCpuIndex, number: int = 0) -> None:
        if not hasattr(faiss, "StandardGpuResources"):
            remedy = "install the extra mdrec[gpu], not beside faiss-cpu, or use device cpu"
            raise BadInput("this FAISS is built without GPU support", remedy)
        if number >= gpu_count():
            remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device cpu"
            raise BadInput(f"GPU {number} does not exist: FAISS sees {gpu_count()}", remedy)
        self.cpu, self._on = cpu, _device(number)
        coded = isinstance(faiss.downcast_index(cpu.index), faiss.IndexIVFScalarQuantizer)
        self._most = _CODED_LIMIT if coded else _LIMIT
        options = faiss.GpuClonerOptions()
        options.useFloat16 = False  # half-precision lists would not agree with the CPU's scores
        with self._on.lock:
            self._index = faiss.index_cpu_to_gpu(self._on.resources, number, cpu.index, options)

    @property
    def size(self) -> int:
        return self.cpu.size

    @property
    def dimension(self) -> int:
        return self.cpu.dimension

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        query_BE, width, eligible_N = checked(self, query_BE, k, eligible_N)
        available = self.size if eligible_N is None else int(np.count_nonzero(eligible_N))
        fetch = width if eligible_N is None else int(_SPARE * width * self.size / max(available, 1)) + 1
        nprobe = self.cpu.nprobe_for(max(available, 1))
        if fetch > self._most or (nprobe or 0) > _LIMIT or available <= width:
            return self.cpu.search(query_BE, k, eligible_N)
        found = self._search(query_BE, min(fetch, self.size), nprobe)
        if eligible_N is not None:
            found = ordered(found.scores, np.where(eligible_N[found.rows] & (found.rows >= 0), found.rows, NO_ROW))
        scores_BK, rows_BK = found.scores[:, :width].copy(), found.rows[:, :width].copy()
        short_B = rows_BK[:, -1] < 0
        if short_B.any():
            scores_BK[short_B], rows_BK[short_B] = self.cpu.search(query_BE[short_B], k, eligible_N)
        return Found(scores_BK, rows_BK)

    def save(self, path: Path) -> None:
        self.cpu.save(path)

    def _search(self, query_BE: Matrix, k: int, nprobe: int | None) -> Found:
        options: dict[str, Any] = {}
        if nprobe is not None:
            options["params"] = search_parameters(nprobe=nprobe)
        with self._on.lock:
            found = self._index.search(query_BE, k, **options)
        return ordered(*found)
