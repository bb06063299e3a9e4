"""The fastest index of one domain, measured on its own ads and users: what trains within a minute is built, brought to the
recall gate, and timed one query at a time; the fastest wins.

Small domains measure nothing (policy.py). A verdict is remembered for domains of the same name and about the same size on
the same machine, so that a night does not repeat what the last one measured; what is remembered is the spec alone, and its
recall is measured again on tonight's ads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from contracts.errors import BundleError, WorkFailed
from contracts.files import read_json, write_json
from contracts.manifest import SweptIndex
from indexer.build import build_index, train
from indexer.coded import CodedIndex
from indexer.index import FaissCpuIndex, Index, Matrix, StoredIndex
from indexer.policy import IndexSpec, candidates

_log = logging.getLogger("mdrec.indexer")

SECONDS = 60.0  # no further candidate is begun after that; the one begun last may end later
_ROUNDS = 5
_SECONDS_A_ROUND = 0.1  # of one candidate
_QUERIES = 128  # on which candidates are brought to the gate; the winner's recall is measured on all
_AS_FAST = 0.05  # of two candidates closer than this, the one of higher recall
_SIZES_AN_OCTAVE = 4
_MEMORY_SHARE = 0.25  # of the machine's memory, for one domain's index


@dataclass(frozen=True)
class Wanted:
    """What the index of domain `name` must do. k: ads a request asks for; recall_gate: share of exact search's k that it
    must find."""

    name: str
    k: int
    recall_gate: float
    memory_bytes: int
    seed: int = 0


@dataclass(frozen=True)
class Swept:
    """The index that won and its recall on all queries. points: what was measured, by this build or by the one whose verdict
    is remembered; empty where nothing had to be."""

    spec: IndexSpec
    index: StoredIndex
    recall: float
    points: list[SweptIndex]


def memory_budget() -> int:
    """Bytes that the index of one domain may take on this machine."""
    return int(_MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def fastest(vectors_AE: Matrix, queries_QE: Matrix, wanted: Wanted, memory: Path | None = None) -> Swept:
    """memory: directory of what earlier sweeps found. Raises as build_index does."""
    specs = candidates(len(vectors_AE), vectors_AE.shape[1], wanted.k, wanted.memory_bytes)
    if len(specs) == 1:
        return Swept(specs[0], *_build(vectors_AE, queries_QE, specs[0], wanted), [])
    note = memory / f"{_key(vectors_AE, wanted)}.json" if memory is not None else None
    trained: dict[IndexSpec, Any] = {}
    points = _remembered(note)
    if points:
        try:
            return _chosen(vectors_AE, queries_QE, points, wanted, trained)
        except WorkFailed as error:
            _log.info("measured anew, what was the fastest index no longer is one: %s", error)
    points = _measured(vectors_AE, queries_QE[:_QUERIES], specs, wanted, trained)
    if note is not None:
        write_json(note, [point.model_dump() for point in points])
    return _chosen(vectors_AE, queries_QE, points, wanted, trained)


def _chosen(
    vectors_AE: Matrix, queries_QE: Matrix, points: list[SweptIndex], wanted: Wanted, trained: dict[IndexSpec, Any]
) -> Swept:
    (chosen,) = (IndexSpec(one.kind, one.nlist, one.nprobe, one.reach) for one in points if one.chosen)
    known = next((index for spec, index in trained.items() if (spec.kind, spec.nlist) == (chosen.kind, chosen.nlist)), None)
    return Swept(chosen, *_build(vectors_AE, queries_QE, chosen, wanted, known), points)


def _build(
    vectors_AE: Matrix, queries_QE: Matrix, spec: IndexSpec, wanted: Wanted, trained: Any = None
) -> tuple[StoredIndex, float]:
    return build_index(vectors_AE, queries_QE, spec, wanted.name, wanted.k, wanted.recall_gate, wanted.seed, trained)


def _measured(
    vectors_AE: Matrix, queries_QE: Matrix, specs: list[IndexSpec], wanted: Wanted, trained: dict[IndexSpec, Any]
) -> list[SweptIndex]:
    """One point for each candidate that meets the gate, the fastest marked as chosen; leaves in `trained` what was built."""
    started, failure = time.perf_counter(), None
    found: list[tuple[IndexSpec, StoredIndex, float]] = []
    centroids: dict[int, Matrix] = {}
    for spec in specs:
        if found and time.perf_counter() - started > SECONDS:
            break
        try:
            if spec.kind != "exact":
                trained[spec] = train(vectors_AE, spec, wanted.seed, centroids.get(spec.nlist))
                if spec.kind != "ivf_int8":
                    centroids[spec.nlist] = trained[spec].quantizer.reconstruct_n(0, spec.nlist)
            found.append((spec, *_build(vectors_AE, queries_QE, spec, wanted, trained.get(spec))))
        except WorkFailed as error:  # quantised vectors may never reach a high gate: another candidate will
            failure = error
    if not found:
        assert failure is not None
        raise failure
    milliseconds = _timed([index for _, index, _ in found], queries_QE, wanted.k)
    limit = min(milliseconds) * (1 + _AS_FAST)
    chosen = max((at for at, value in enumerate(milliseconds) if value <= limit), key=lambda at: found[at][2])
    return [
        SweptIndex(
            kind=spec.kind,
            nlist=spec.nlist,
            nprobe=index.nprobe or 0 if isinstance(index, FaissCpuIndex) else 0,
            reach=index.reach if isinstance(index, CodedIndex) else 0,
            recall=recall,
            milliseconds=milliseconds[at],
            bytes=spec.bytes(*vectors_AE.shape),
            chosen=at == chosen,
        )
        for at, (spec, index, recall) in enumerate(found)
    ]


def _timed(indices: list[Index], queries_QE: Matrix, k: int) -> list[float]:
    """Median milliseconds of a single query, over rounds that alternate between the indices. FAISS takes one thread for one
    query; a matrix product may take more, and a worker has one core."""
    from threadpoolctl import threadpool_limits

    seconds: list[list[float]] = [[] for _ in indices]
    with threadpool_limits(1):
        for _ in range(_ROUNDS):
            for index, spent in zip(indices, seconds, strict=True):
                spent.append(_one_round(index, queries_QE, k))
    return [float(np.median(spent)) * 1e3 for spent in seconds]


def _one_round(index: Index, queries_QE: Matrix, k: int) -> float:
    """Seconds a query."""
    index.search(queries_QE[:1], k)
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < _SECONDS_A_ROUND or calls < 1:
        at = calls % len(queries_QE)
        index.search(queries_QE[at : at + 1], k)
        calls += 1
    return spent / calls


def _key(vectors_AE: Matrix, wanted: Wanted) -> str:
    """What decides a verdict; the size to a quarter of an octave."""
    n, dimension = vectors_AE.shape
    size = round(_SIZES_AN_OCTAVE * float(np.log2(n)))
    facts = [wanted.name, size, dimension, wanted.k, wanted.recall_gate, wanted.memory_bytes]
    return hashlib.sha256(json.dumps([*facts, _machine(), faiss.__version__]).encode()).hexdigest()[:32]


def _machine() -> list[Any]:
    """The processor and how many of it."""
    models = [line for line in _cpuinfo() if line.startswith("model name")]
    return [platform.machine(), models[0] if models else platform.processor(), os.cpu_count()]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _remembered(note: Path | None) -> list[SweptIndex]:
    """What an earlier sweep found; nothing where the note is damaged, for measuring again is always possible."""
    if note is None or not note.is_file():
        return []
    try:
        points = [SweptIndex(**one) for one in read_json(note)]
    except (BundleError, TypeError, ValueError):
        return []
    return points if sum(point.chosen for point in points) == 1 else []
