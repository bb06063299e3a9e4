"""`python -m indexer.gpu_check`: does this machine's GPU answer as its CPU does? Prints one JSON object.

For each index kind: share of equal top-k sets, largest score difference, ms a query on both, with and without a mask, and
whether concurrent searches equal the same searches one by one. Exit code 0 agreement, 1 disagreement, 2 no usable GPU.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from contracts.errors import BadInput
from contracts.manifest import IndexKind
from indexer.build import build_index
from indexer.gpu import FaissGpuIndex
from indexer.index import ExactIndex, FaissCpuIndex, Found, Index, Mask, Matrix, as_faiss
from indexer.policy import IndexSpec

_ADS, _DIMENSION, _QUERIES, _K = 50_000, 64, 256, 500
_LEAST_OVERLAP = 0.999  # float32 sums in another order swap ads of nearly equal score at the last place
_LARGEST_DIFFERENCE = 1e-3


def compare(kind: IndexKind) -> dict[str, Any]:
    """CPU and GPU on the same random index. Raises BadInput when there is no usable GPU."""
    random = np.random.default_rng(0)
    vectors_NE = random.standard_normal((_ADS, _DIMENSION), dtype=np.float32)
    query_BE = random.standard_normal((_QUERIES, _DIMENSION), dtype=np.float32)
    spec = IndexSpec(kind, nlist=224, nprobe=8)
    index, _ = build_index(vectors_NE, query_BE, spec, "gpu_check", _K, recall_gate=0.5, seed=0)
    assert isinstance(index, ExactIndex | FaissCpuIndex)
    cpu = as_faiss(index)
    gpu = FaissGpuIndex(cpu)
    report: dict[str, Any] = {"kind": kind}
    for name, eligible_N in (("all", None), ("masked", random.random(_ADS) < 0.7)):
        expected, cpu_ms = _timed(cpu, query_BE, eligible_N)
        found, gpu_ms = _timed(gpu, query_BE, eligible_N)
        overlap = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(found.rows, expected.rows, strict=True)])
        difference = float(np.abs(found.scores - expected.scores).max())
        report[name] = {"overlap": float(overlap), "score_difference": difference, "cpu_ms": cpu_ms, "gpu_ms": gpu_ms}
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(lambda one: gpu.search(one[None], _K).rows[0], query_BE))
    alone = [gpu.search(one[None], _K).rows[0] for one in query_BE]
    report["concurrent_equal"] = bool(np.array_equal(crowd, alone))
    cases = (report["all"], report["masked"])
    close = all(one["overlap"] >= _LEAST_OVERLAP and one["score_difference"] <= _LARGEST_DIFFERENCE for one in cases)
    report["agrees"] = close and report["concurrent_equal"]
    return report


def _timed(index: Index, query_BE: Matrix, eligible_N: Mask | None) -> tuple[Found, float]:
    """The answers of single-query searches, and milliseconds each; the first is not timed."""
    index.search(query_BE[:1], _K, eligible_N)
    started = time.perf_counter()
    answers = [index.search(one[None], _K, eligible_N) for one in query_BE]
    milliseconds = (time.perf_counter() - started) * 1000 / len(query_BE)
    return Found(np.concatenate([one.scores for one in answers]), np.concatenate([one.rows for one in answers])), milliseconds


def main() -> int:
    kinds: tuple[IndexKind, ...] = ("exact", "ivf_flat", "ivf_sq8")
    try:
        reports = [compare(kind) for kind in kinds]
    except BadInput as error:
        print(json.dumps({"gpu": False, "reason": error.message, "hint": error.hint}))
        return error.exit_code
    agrees = all(one["agrees"] for one in reports)
    print(json.dumps({"gpu": True, "agrees": agrees, "indices": reports}, indent=2))
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
