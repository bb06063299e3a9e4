"""Search of one domain's ads against other libraries, at equal recall on one thread.

    python -m loadtests.search 10000 100000

Ads lie in clusters of unequal size and length, users between them, 64 dimensions. Everybody finds at least .98 of exact search's
top 500: our index by the indexer's sweep, the others by the least effort that does (to a 32nd). Then single queries, in rounds
that alternate between all, so that a slow spell of the machine hits all alike: only the ratios carry over to another machine.
A library that is not installed is named and left out: `pip install hnswlib usearch scann`, best in an environment of its own
with faiss-cpu, numba, pydantic and threadpoolctl beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, by whichever library comes first
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from indexer.build import least_effort, measure_recall
from indexer.index import ExactIndex, Index, Matrix, Rows
from indexer.sweep import Wanted, fastest, memory_budget

DIMENSION, K, GATE = 64, 500, 0.98
QUERIES = 100
ROUNDS = 7
SECONDS_A_ROUND = 0.3
BATCH = 16
_NOTHING = np.zeros((1, 1), dtype=np.float32)
_LINKS, _BUILD_EFFORT = 16, 100  # of the graphs

Search = Callable[[Matrix], Rows]  # (1, E) -> (1, K)


@dataclass
class Entry:
    """One library at the gate."""

    name: str
    search: Search
    recall: float
    build_seconds: float


def world(n: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """(n, 64) ads and (QUERIES, 64) users."""
    random = np.random.default_rng(seed)
    centres_CE = random.standard_normal((max(50, round(2 * n**0.5)), DIMENSION))
    cluster_N = random.zipf(1.3, n) % len(centres_CE)
    ads_NE = (centres_CE[cluster_N] + 0.6 * random.standard_normal((n, DIMENSION))) * random.lognormal(0, 0.15, (n, 1))
    liked_Q = random.integers(0, len(centres_CE), QUERIES)
    users_QE = 0.7 * (centres_CE[liked_Q] + random.standard_normal((QUERIES, DIMENSION)))
    return ads_NE.astype(np.float32), users_QE.astype(np.float32)


def ours(ads_NE: Matrix, users_QE: Matrix, k: int) -> tuple[Entry, Index]:
    started = time.perf_counter()
    swept = fastest(ads_NE, users_QE, Wanted("loadtest", k, GATE, memory_budget()))
    (at,) = (one for one in swept.points if one.chosen) if swept.points else (swept.spec,)
    effort = f"reach {at.reach}" if at.reach else f"{at.nprobe} visited"
    name = f"mdrec ({at.kind}{f', {at.nlist} lists, {effort}' if at.nlist else ''})"
    seconds = time.perf_counter() - started
    return Entry(name, lambda query_1E: swept.index.search(query_1E, k).rows, swept.recall, seconds), swept.index


def _lifted(ads_NE: Matrix) -> Matrix:
    """One more dimension, with which all ads are equally long and the nearest has the highest inner product with a query that has
    0 there. Graphs over bare inner products never reached the gate: nothing leads to the short ads."""
    squared_N = np.square(ads_NE, dtype=np.float64).sum(axis=1)
    return np.column_stack([ads_NE, np.sqrt(squared_N.max() - squared_N)]).astype(np.float32)


def hnswlib(library: Any, ads_NE: Matrix, k: int) -> Iterator[tuple[str, Callable[[int], Search], int]]:
    index = library.Index(space="l2", dim=DIMENSION + 1)
    index.init_index(max_elements=len(ads_NE), M=_LINKS, ef_construction=_BUILD_EFFORT, random_seed=0)
    index.set_num_threads(1)
    index.add_items(_lifted(ads_NE))

    def at(effort: int) -> Search:
        def search(query_1E: Matrix) -> Rows:
            index.set_ef(effort)
            rows_1K: Rows = index.knn_query(np.append(query_1E, _NOTHING, axis=1), k)[0].astype(np.int64)
            return rows_1K

        return search

    yield "ef", at, k


def usearch(library: Any, ads_NE: Matrix, k: int) -> Iterator[tuple[str, Callable[[int], Search], int]]:
    index = library.Index(ndim=DIMENSION + 1, metric="l2sq", dtype="f32", connectivity=_LINKS, expansion_add=_BUILD_EFFORT)
    index.add(np.arange(len(ads_NE)), _lifted(ads_NE), threads=1)

    def at(effort: int) -> Search:
        def search(query_1E: Matrix) -> Rows:
            index.expansion_search = effort
            rows_K: Rows = index.search(np.append(query_1E[0], _NOTHING[0]), k, threads=1).keys.astype(np.int64)
            return rows_K[None]

        return search

    yield "expansion", at, k


def scann(library: Any, ads_NE: Matrix, k: int) -> Iterator[tuple[str, Callable[[int], Search], int]]:
    """Its two efforts: leaves visited, for each of five numbers of ads scored exactly."""
    leaves = round(2 * len(ads_NE) ** 0.5)
    builder = library.scann_ops_pybind.builder(ads_NE, k, "dot_product")
    builder = builder.tree(num_leaves=leaves, num_leaves_to_search=8, training_sample_size=min(len(ads_NE), 64 * leaves))
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(2 * k).build()

    def with_reorder(reorder: int) -> Callable[[int], Search]:
        def at(visited: int) -> Search:
            options = {"final_num_neighbors": k, "leaves_to_search": min(visited, leaves), "pre_reorder_num_neighbors": reorder}
            return lambda query_1E: index.search(query_1E[0], **options)[0].astype(np.int64)[None]

        return at

    for factor in (1.5, 2.5, 4, 8, 16):
        yield f"reordering {round(factor * k)}, leaves", with_reorder(round(factor * k)), 8


PEERS = {"hnswlib": ("hnswlib", hnswlib), "usearch": ("usearch.index", usearch), "scann": ("scann", scann)}


def peer(name: str, ads_NE: Matrix, users_QE: Matrix, best_QK: Matrix, k: int) -> Entry | None:
    """The fastest way of a library to the gate; None, and a line that says why, where there is none."""
    module, make = PEERS[name]
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        print(f"{name}: left out, not installed ({error})")
        return None
    started, found = time.perf_counter(), []
    for effort_name, at, first in make(library, ads_NE, k):
        built = time.perf_counter() - started
        reached = _least(at, first, len(ads_NE), ads_NE, users_QE, best_QK, k)
        if reached is not None:
            effort, recall = reached
            entry = Entry(f"{name} ({effort_name} {effort})", at(effort), recall, built)
            found.append((_one_round(entry.search, users_QE), entry))
    if not found:
        print(f"{name}: left out, no effort reaches recall {GATE}")
        return None
    return min(found, key=lambda one: one[0])[1]


def _least(
    at: Callable[[int], Search], first: int, most: int, ads_NE: Matrix, users_QE: Matrix, best_QK: Matrix, k: int
) -> tuple[int, float] | None:
    """(effort, recall) of the least effort that meets the gate."""

    def recall_of(effort: int) -> float:
        rows_QK = np.full((len(users_QE), k), -1, dtype=np.int64)
        for row, user_E in zip(rows_QK, users_QE, strict=True):
            found = at(effort)(user_E[None])[0]
            row[: len(found)] = found
        return measure_recall(ads_NE, users_QE, rows_QK, best_QK)

    effort, recall = least_effort(recall_of, first, most, GATE)
    return (effort, recall) if recall >= GATE else None


def compare(n: int, k: int = K, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Print one table; milliseconds a query by library and round."""
    ads_NE, users_QE = world(n)
    k = min(k, n)
    best_QK = ExactIndex(ads_NE).search(users_QE, k).scores
    mine, index = ours(ads_NE, users_QE, k)
    entries = [mine]
    for name in PEERS:  # said as they come: of a million ads a graph takes many minutes
        print(f"{entries[-1].name}: at recall {entries[-1].recall:.3f}", flush=True)
        entries += filter(None, [peer(name, ads_NE, users_QE, best_QK, k)])
    milliseconds: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        for entry in entries:
            milliseconds[entry.name].append(1e3 * _one_round(entry.search, users_QE))
    print(f"{n:,} ads, {DIMENSION} dimensions, k = {k}, one query at a time, one thread, {rounds} alternating rounds")
    for entry in entries:
        spent = np.array(milliseconds[entry.name])
        ratio = spent / np.array(milliseconds[mine.name])
        print(
            f"{entry.name:<44} recall {entry.recall:.3f}  {np.median(spent):7.3f} ms  "
            f"{np.median(ratio):5.2f} x [{ratio.min():.2f}, {ratio.max():.2f}]  built in {entry.build_seconds:.1f} s"
        )
    print(f"{BATCH} queries in one call: {_batch_gain(index, users_QE, k, rounds):.2f} of the time of {BATCH} calls")
    return milliseconds


def _batch_gain(index: Index, users_QE: Matrix, k: int, rounds: int) -> float:
    """What requests that meet would gain from one search: median ratio of times."""
    batch_BE, ratios = users_QE[:BATCH], []
    for _ in range(rounds):
        together = _one_round(lambda _: index.search(batch_BE, k).rows, users_QE)
        ratios.append(together / BATCH / _one_round(lambda query_1E: index.search(query_1E, k).rows, batch_BE))
    return float(np.median(ratios))


def _one_round(search: Search, users_QE: Matrix) -> float:
    """Seconds a call."""
    search(users_QE[:1])
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SECONDS_A_ROUND or not calls:
        at = calls % len(users_QE)
        search(users_QE[at : at + 1])
        calls += 1
    return spent / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ads", nargs="*", type=int, default=[10_000, 100_000])
    faiss.omp_set_num_threads(1)
    for n in parser.parse_args().ads:
        compare(n)


if __name__ == "__main__":
    main()
