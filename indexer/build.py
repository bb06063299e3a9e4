"""One index over given embeddings, measured against exact search on real queries, as narrow as its recall gate allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from contracts.errors import BadInput, WorkFailed
from indexer.coded import train_coded
from indexer.index import ExactIndex, FaissCpuIndex, Matrix, Rows, StoredIndex
from indexer.policy import IndexSpec

_FACTORY = {"ivf_flat": "IVF{nlist},Flat", "ivf_sq8": "IVF{nlist},SQ8"}
_TRAINING_ADS_PER_LIST = 64  # 100k ads: half the k-means time of FAISS's 256 for at most .003 of recall
FARTHEST = 1600  # hundredths of a deviation: further no ad of a list is
_FINENESS = 32  # time goes with effort
_ROUNDING = 1e-5  # relative: two summation orders of one float32 inner product
_GATHERED_AT_ONCE = 1 << 22


def build_index(
    vectors_AE: Matrix,
    queries_QE: Matrix,
    spec: IndexSpec,
    name: str,
    k: int,
    recall_gate: float,
    seed: int,
    trained: Any = None,
) -> tuple[StoredIndex, float]:
    """The index of `spec` over (A, E) float32 vectors with about the least nprobe or reach from spec's up that meets the gate,
    and its recall@k on (Q, E) queries. name: the domain's; trained: what `train` made of spec, if that is there.
    Raises BadInput without queries, WorkFailed for unusable embeddings or when no effort reaches the gate."""
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
    trained = trained or train(vectors_AE, spec, seed)
    coded = spec.kind == "ivf_int8"
    best_QK = exact.search(queries_QE, k).scores

    def at(effort: int) -> StoredIndex:
        return trained.with_reach(effort) if coded else FaissCpuIndex(trained, effort)

    def recall_of(effort: int) -> float:
        return measure_recall(vectors_AE, queries_QE, at(effort).search(queries_QE, k).rows, best_QK)

    first, most = (spec.reach, FARTHEST) if coded else (spec.nprobe, spec.nlist)
    effort, recall = least_effort(recall_of, first, most, recall_gate)
    if recall < recall_gate:
        raise WorkFailed(
            f"domain {name!r}: recall@{k} is {recall:.4f} with every list visited, under its gate {recall_gate}",
            "use an index that keeps whole vectors (ivf_flat or exact), or lower the gate",
        )
    return at(effort), recall


def least_effort(recall_of: Callable[[int], float], first: int, most: int, gate: float) -> tuple[int, float]:
    """(effort, recall): from `first` up doubled until the gate is met, then halved in between; to a 32nd the least that meets
    it. Where none does, `most` and its recall."""
    under, effort, recall = 0, first, recall_of(first)
    while recall < gate:
        if effort >= most:
            return effort, recall
        under, effort = effort, min(2 * effort, most)
        recall = recall_of(effort)
    while under and effort - under > max(1, under // _FINENESS):
        middle = (under + effort) // 2
        found = recall_of(middle)
        if found < gate:
            under = middle
        else:
            effort, recall = middle, found
    return effort, recall


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


def train(vectors_AE: Matrix, spec: IndexSpec, seed: int, centroids_LE: Matrix | None = None) -> Any:
    """A FAISS index over all ads, by seeded k-means unless its (nlist, E) centroids are known, or a CodedIndex. Equal bytes for
    equal input and seed, also with another number of threads, and whether the centroids were given or found."""
    if spec.kind == "ivf_int8":
        return train_coded(vectors_AE, spec.nlist, seed)
    factory = _FACTORY[spec.kind].format(nlist=spec.nlist)
    index: Any = faiss.index_factory(vectors_AE.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.cp.max_points_per_centroid = _TRAINING_ADS_PER_LIST
    if centroids_LE is not None:
        index.quantizer.add(centroids_LE)  # FAISS skips its k-means over a quantizer that holds nlist centroids
    index.train(vectors_AE)
    index.add(vectors_AE)
    return index
