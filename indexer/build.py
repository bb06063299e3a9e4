"""One domain's ads -> embeddings -> index, measured against exact search on real queries. Below its gate it is not published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from contracts.errors import BadInput, WorkFailed
from contracts.files import load_array
from contracts.manifest import IndexEntry
from indexer.index import ExactIndex, FaissCpuIndex, Index, Matrix, Rows
from indexer.policy import IndexSpec, choose
from indexer.tower import embed, open_session

_FACTORY = {"ivf_flat": "IVF{nlist},Flat", "ivf_sq8": "IVF{nlist},SQ8"}
_TRAINING_ADS_PER_LIST = 64  # 100k ads: half the k-means time of FAISS's 256 for at most .003 of recall
_ROUNDING = 1e-5  # relative: two summation orders of one float32 inner product
_GATHERED_AT_ONCE = 1 << 22


def build_domain(
    directory: Path,
    name: str,
    queries_QE: Matrix,
    recall_at: int = 100,
    recall_gate: float = 0.95,
    spec: IndexSpec | None = None,
    seed: int = 0,
    workers: int = 1,
) -> IndexEntry:
    """Embed the ads of domain `name` and write `directory`/index.npy or index.faiss; the entry's `file` is relative to
    `directory`, which is a bundle's domains/<i> with ad_tower.onnx, ads/codes.npy and ads/dense.npy in place.

    queries_QE: (Q, E) float32 user embeddings of this domain, a sample of those it will be asked with; spec: by default
    what `policy.choose` says. Equal inputs give equal bytes. Raises BadInput for a domain without ads or queries,
    WorkFailed for unusable embeddings or when no nprobe reaches the gate.
    """
    started = time.perf_counter()
    codes_AI, dense_AN = load_array(directory / "ads" / "codes.npy"), load_array(directory / "ads" / "dense.npy")
    if len(codes_AI) == 0:
        raise BadInput(f"domain {name!r} has no ads", "leave the domain out, or mark at least one of its ads active")
    if len(codes_AI) != len(dense_AN):
        raise BadInput(f"domain {name!r}: ads/codes.npy has {len(codes_AI)} rows, ads/dense.npy {len(dense_AN)}")
    vectors_AE = embed(open_session(directory / "ad_tower.onnx"), {"ad_codes": codes_AI, "ad_dense": dense_AN}, workers=workers)
    spec = spec or choose(len(vectors_AE), vectors_AE.shape[1], recall_at)
    index, recall = build_index(vectors_AE, queries_QE, spec, name, recall_at, recall_gate, seed)
    file, parameters = "index.npy", {}
    if isinstance(index, FaissCpuIndex):
        file, parameters = "index.faiss", {"nlist": index.nlist, "nprobe": int(index.nprobe or 0)}
    index.save(directory / file)
    return IndexEntry(
        kind=spec.kind,
        file=file,
        parameters=parameters,
        dimension=index.dimension,
        size=index.size,
        recall_at=recall_at,
        recall=recall,
        recall_gate=recall_gate,
        build_seconds=time.perf_counter() - started,
    )


def build_index(
    vectors_AE: Matrix, queries_QE: Matrix, spec: IndexSpec, name: str, recall_at: int, recall_gate: float, seed: int
) -> tuple[Index, float]:
    """The index of `spec` over (A, E) float32 vectors with the least doubling of spec.nprobe that meets the gate, and its
    recall@recall_at. Raises as build_domain does; `name` is the domain's."""
    if len(queries_QE) == 0:
        raise BadInput(f"domain {name!r} has no sample queries", "give user embeddings of the domain: recall is measured on them")
    for what, matrix in (("ad", vectors_AE), ("user", queries_QE)):
        broken = int(np.count_nonzero(~np.isfinite(matrix).all(axis=1)))
        if broken:
            message = f"domain {name!r}: {broken} of {len(matrix)} {what} embeddings hold NaN or infinity"
            raise WorkFailed(message, "train the tower again")
    exact = ExactIndex(vectors_AE)
    if spec.kind == "exact":
        return exact, 1.0
    index = FaissCpuIndex(_train(vectors_AE, spec, seed), spec.nprobe)
    best_QK = exact.search(queries_QE, recall_at).scores
    while True:
        rows_QK = index.search(queries_QE, recall_at).rows
        recall = measure_recall(vectors_AE, queries_QE, rows_QK, best_QK)
        if recall >= recall_gate:
            return index, recall
        if index.nprobe == spec.nlist:
            raise WorkFailed(
                f"domain {name!r}: recall@{recall_at} is {recall:.4f} with every list visited, under its gate {recall_gate}",
                "use an index that keeps whole vectors (ivf_flat or exact), or lower the gate",
            )
        index = index.with_nprobe(min(2 * int(index.nprobe or 1), spec.nlist))


def measure_recall(vectors_AE: Matrix, queries_QE: Matrix, rows_QK: Rows, best_QK: Matrix) -> float:
    """Share of exact search's top K that was found, mean over queries. rows_QK: (Q, K) found, -1 where none; best_QK:
    (Q, K) exact search's scores. A found ad counts when its inner product reaches the K-th best, so that of ads of equal
    score (popularity has many) either one is right."""
    hits, block = 0, max(1, _GATHERED_AT_ONCE // rows_QK.shape[1] // vectors_AE.shape[1])
    for start in range(0, len(queries_QE), block):
        part = slice(start, start + block)
        scores_QK = np.einsum("qke,qe->qk", vectors_AE[rows_QK[part]], queries_QE[part])
        last_Q1 = best_QK[part, -1:]
        reached_QK = scores_QK >= last_Q1 - _ROUNDING * np.abs(best_QK[part]).max(axis=1, keepdims=True)
        hits += int(np.count_nonzero(reached_QK & (rows_QK[part] >= 0)))
    return hits / rows_QK.size


def _train(vectors_AE: Matrix, spec: IndexSpec, seed: int) -> Any:
    """Seeded k-means. FAISS gives equal bytes for equal input and seed, also with another number of threads."""
    factory = _FACTORY[spec.kind].format(nlist=spec.nlist)
    index: Any = faiss.index_factory(vectors_AE.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.cp.max_points_per_centroid = _TRAINING_ADS_PER_LIST
    index.train(vectors_AE)
    index.add(vectors_AE)
    return index
