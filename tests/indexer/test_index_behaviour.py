"""What every index promises, on worlds whose answer numpy gives; then what is true of one of them only."""

from __future__ import annotations

import functools
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_world import MAKERS, MakeIndex, coded, ivf

from contracts.errors import BadInput
from contracts.manifest import IndexKind
from indexer import coded as coded_lists
from indexer import compiler
from indexer.build import build_index
from indexer.grown import GrownIndex
from indexer.index import ExactIndex, FaissCpuIndex, Index, Matrix
from indexer.policy import IndexSpec


def brute_force(vectors: Matrix, query: Matrix, k: int, eligible: np.ndarray | None = None) -> tuple[list[float], list[int]]:
    """Plain Python over float64: [(score, row)] best first, ties by row."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    rows = [row for row in range(len(vectors)) if eligible is None or eligible[row]]
    best = sorted(rows, key=lambda row: (-scores[row], row))[:k]
    return [float(scores[row]) for row in best], best


def test_finds_the_highest_inner_products_best_first(make_index: MakeIndex, vectors: Matrix, queries: Matrix) -> None:
    found = make_index(vectors).search(queries, 25)
    assert found.scores.shape == found.rows.shape == (9, 25)
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)
    for query, scores, rows in zip(queries, found.scores, found.rows, strict=True):
        expected_scores, expected_rows = brute_force(vectors, query, 25)
        assert rows.tolist() == expected_rows
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_measures_inner_product_not_distance(make_index: MakeIndex) -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 3.0], [0.9, 0.1], [-5.0, 0.0]] * 16, dtype=np.float32)
    found = make_index(vectors).search(np.array([[1.0, 0.0]], dtype=np.float32), 64)
    assert set(found.rows[0, :16] % 4) == {1}, "the longest vector wins although [1, 0] is nearer and more aligned"
    assert found.scores[0, 0] == 3.0
    assert set(found.rows[0, -16:] % 4) == {3}


@pytest.mark.parametrize("k", [300, 301, 5000])
def test_more_than_there_is_gives_all_there_is(make_index: MakeIndex, vectors: Matrix, queries: Matrix, k: int) -> None:
    found = make_index(vectors).search(queries, k)
    assert found.rows.shape == (9, 300)
    assert all(sorted(rows) == list(range(300)) for rows in found.rows.tolist())


def test_only_eligible_ads_are_found_and_none_of_them_is_lost(make_index: MakeIndex, vectors: Matrix, queries: Matrix) -> None:
    eligible = np.random.default_rng(3).random(300) < 0.4
    found = make_index(vectors).search(queries, 20, eligible)
    for query, rows in zip(queries, found.rows, strict=True):
        assert rows.tolist() == brute_force(vectors, query, 20, eligible)[1]


def test_fewer_eligible_than_asked_are_followed_by_padding(make_index: MakeIndex, vectors: Matrix, queries: Matrix) -> None:
    eligible = np.zeros(300, dtype=bool)
    eligible[[7, 100, 299]] = True
    found = make_index(vectors).search(queries, 10, eligible)
    assert [set(rows) for rows in found.rows[:, :3].tolist()] == [{7, 100, 299}] * 9
    assert (found.rows[:, 3:] == -1).all() and np.isneginf(found.scores[:, 3:]).all()
    assert np.isfinite(found.scores[:, :3]).all()


def test_nothing_eligible_is_all_padding(make_index: MakeIndex, vectors: Matrix, queries: Matrix) -> None:
    found = make_index(vectors).search(queries, 4, np.zeros(300, dtype=bool))
    assert found.rows.tolist() == [[-1] * 4] * 9
    assert np.isneginf(found.scores).all()


def test_a_query_alone_equals_the_query_in_a_crowd(make_index: MakeIndex, vectors: Matrix, queries: Matrix) -> None:
    index = make_index(vectors)
    together = index.search(queries, 30)
    for at, query in enumerate(queries):
        alone = index.search(query[None], 30)
        assert alone.rows[0].tolist() == together.rows[at].tolist()
        np.testing.assert_allclose(alone.scores[0], together.scores[at], rtol=1e-5, atol=1e-6)


def test_equal_scores_come_by_row(make_index: MakeIndex) -> None:
    vectors = np.repeat(np.array([[2.0], [1.0], [3.0]], dtype=np.float32), 20, axis=0)
    found = make_index(vectors).search(np.ones((1, 1), dtype=np.float32), 60)
    assert found.rows[0].tolist() == [*range(40, 60), *range(20), *range(20, 40)]


def test_no_query_is_no_answer(make_index: MakeIndex, vectors: Matrix) -> None:
    assert make_index(vectors).search(np.empty((0, 12), dtype=np.float32), 5).rows.shape == (0, 5)


def test_takes_float64_and_strided_queries(make_index: MakeIndex, vectors: Matrix, queries: Matrix) -> None:
    index = make_index(vectors)
    strided = np.asfortranarray(np.repeat(queries.astype(np.float64), 2, axis=0))[::2]
    assert index.search(strided, 5).rows.tolist() == index.search(queries, 5).rows.tolist()


@pytest.mark.parametrize(
    ("query", "k", "eligible", "says"),
    [
        (np.zeros((1, 11), np.float32), 3, None, r"\(1, 11\).*\(B, 12\)"),
        (np.zeros(12, np.float32), 3, None, r"\(12,\)"),
        (np.full((1, 12), np.nan, np.float32), 3, None, "NaN"),
        (np.full((1, 12), np.inf, np.float32), 3, None, "infinity"),
        (np.zeros((1, 12), np.float32), 0, None, "k is 0"),
        (np.zeros((1, 12), np.float32), 3, np.ones(299, bool), r"\(299,\).*\(300,\)"),
        (np.zeros((1, 12), np.float32), 3, np.ones(300, np.int64), "int64"),
    ],
)
def test_misfits_are_named(make_index: MakeIndex, vectors: Matrix, query: Matrix, k: int, eligible, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_index(vectors).search(query, k, eligible)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("kind", MAKERS)
def test_equals_numpy_on_any_small_world(kind: str, data: st.DataObject) -> None:
    """Small integers, so that scores are exact and ties are common: scores must be equal, and each row must own its score."""
    n, width, k = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = random.integers(-3, 4, (n, width)).astype(np.float32)
    query = random.integers(-3, 4, (2, width)).astype(np.float32)
    eligible = random.random(n) < data.draw(st.sampled_from([0.0, 0.03, 0.1, 0.5, 1.0])) if data.draw(st.booleans()) else None
    found = MAKERS[kind](vectors).search(query, k, eligible)
    for at in range(2):
        expected_scores, expected_rows = brute_force(vectors, query[at], k, eligible)
        count = len(expected_rows)
        rows, scores = found.rows[at], found.scores[at]
        assert scores[:count].tolist() == expected_scores
        assert len(set(rows[:count].tolist())) == count and (rows[count:] == -1).all()
        assert (vectors[rows[:count]] @ query[at]).tolist() == expected_scores
        assert eligible is None or eligible[rows[:count]].all()
        if kind in ("exact", "grown_exact"):
            assert rows[:count].tolist() == expected_rows, "exact search breaks every tie by row"


def test_a_narrow_search_is_approximate_and_nprobe_widens_it(narrow: FaissCpuIndex) -> None:
    queries = np.random.default_rng(5).standard_normal((50, 16)).astype(np.float32)
    whole = narrow.with_nprobe(64).search(queries, 10).rows
    overlap = [
        np.mean([len({*a} & {*b}) for a, b in zip(narrow.with_nprobe(n).search(queries, 10).rows, whole, strict=True)])
        for n in (1, 8, 64)
    ]
    assert overlap[0] < overlap[1] < overlap[2] == 10


def test_short_lists_are_made_up_for(narrow: FaissCpuIndex) -> None:
    """One list holds about 80 ads; 200 wanted, or 3 eligible ones scattered over all lists, are found all the same."""
    query = np.random.default_rng(6).standard_normal((3, 16)).astype(np.float32)
    assert (narrow.search(query, 200).rows >= 0).all()
    eligible = np.zeros(5000, dtype=bool)
    eligible[[1, 2500, 4999, 77]] = True
    expected = narrow.with_nprobe(64).search(query, 3, eligible).rows
    assert narrow.search(query, 3, eligible).rows.tolist() == expected.tolist()
    assert (expected >= 0).all()


@pytest.fixture(scope="module")
def clustered() -> tuple[Matrix, Matrix]:
    """(4,000 ads, 40 queries) around 100 centres."""
    random = np.random.default_rng(11)
    centres = random.standard_normal((100, 16))
    ads = centres[random.integers(0, 100, 4000)] + 0.6 * random.standard_normal((4000, 16))
    return ads.astype(np.float32), (centres[:40] + random.standard_normal((40, 16))).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["exact", "ivf_flat", "ivf_sq8", "ivf_int8"])
def test_whatever_is_eligible_there_are_as_many_as_can_be(kind: IndexKind, data: st.DataObject, clustered) -> None:
    """Few lists visited, any share eligible: min(k, eligible) ads, all of them eligible, best first; the best there are where
    the search is exact, which it is for a few eligible ads of any index that keeps whole vectors."""
    ads, queries = clustered
    index = approximate(kind, clustered)
    share, k = (
        data.draw(st.sampled_from([0.0, 0.0005, 0.01, 0.05, 0.06, 0.3, 0.99])),
        data.draw(st.sampled_from([1, 20, 300, 5000])),
    )
    eligible = np.random.default_rng(data.draw(st.integers(0, 2**32))).random(len(ads)) < share
    count = min(k, int(eligible.sum()))
    found = index.search(queries[:2], k, eligible)
    for at in range(2):
        rows, scores = found.rows[at], found.scores[at]
        assert len(set(rows[:count].tolist())) == count and eligible[rows[:count]].all()
        assert (rows[count:] == -1).all() and (np.diff(scores[:count]) <= 0).all()
        if kind == "exact" or (kind in ("ivf_flat", "ivf_int8") and (share <= 0.01 or count < k)):
            best = sorted(ads[eligible] @ queries[at], reverse=True)[:count]
            np.testing.assert_allclose(scores[:count], best, rtol=1e-4, atol=1e-5)


@functools.cache
def _approximate(kind: IndexKind, ads: bytes) -> Index:
    vectors = np.frombuffer(ads, np.float32).reshape(-1, 16)
    return build_index(vectors, vectors[:1], IndexSpec(kind, 64, 4, reach=100), "test", 1, 0.0, seed=0)[0]


def approximate(kind: IndexKind, clustered: tuple[Matrix, Matrix]) -> Index:
    """Four of 64 lists visited, or those whose ads reach the best with one deviation."""
    return _approximate(kind, clustered[0].tobytes())


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_int8"])
@pytest.mark.parametrize("share", [0.5, 0.2, 0.08, 0.02])
def test_fewer_eligible_ads_are_found_no_worse(clustered: tuple[Matrix, Matrix], kind: IndexKind, share: float) -> None:
    ads, queries = clustered
    index, exact = approximate(kind, clustered), ExactIndex(ads)
    eligible = np.random.default_rng(12).random(len(ads)) < share

    def recall(mask: np.ndarray | None) -> float:
        found, best = index.search(queries, 50, mask).rows, exact.search(queries, 50, mask).rows
        return float(np.mean([len({*a} & {*b}) / 50 for a, b in zip(found, best, strict=True)]))

    assert recall(None) < 0.9, "the world is hard enough to tell"
    assert recall(eligible) >= recall(None)


def test_coded_lists_reach_as_far_as_they_are_told_and_two_reaches_may_search_at_once(clustered: tuple[Matrix, Matrix]) -> None:
    ads, queries = clustered
    index, best = coded(ads, nlist=64), ExactIndex(ads).search(queries, 50).rows
    indices = [index.with_reach(reach) for reach in (-100, 100, 1600)]
    with ThreadPoolExecutor(4) as pool:
        crowd = list(pool.map(lambda at: indices[at % 3].search(queries, 50).rows.tolist(), range(12)))
    assert crowd == [indices[at % 3].search(queries, 50).rows.tolist() for at in range(12)]
    found = [np.mean([len({*a} & {*b}) / 50 for a, b in zip(rows, best, strict=True)]) for rows in crowd[:3]]
    assert found[0] < 0.9 * found[1] and found[1] < found[2] and found[2] > 0.998


def test_scores_of_coded_lists_are_those_of_whole_vectors(clustered: tuple[Matrix, Matrix]) -> None:
    ads, queries = clustered
    found = approximate("ivf_int8", clustered).search(queries, 50)
    expected = np.einsum("bke,be->bk", ads[found.rows].astype(np.float64), queries)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-5)


def test_a_query_of_zeros_and_ads_of_zeros_have_an_answer() -> None:
    nothing = np.zeros((40, 3), np.float32)
    for vectors in (nothing, np.eye(3, dtype=np.float32).repeat(20, axis=0)):
        found = coded(vectors, nlist=2).search(nothing[:1], 30)
        assert found.rows.tolist() == [[*range(30)]] and (found.scores == 0).all()


def test_lists_take_the_dimensions_that_their_sums_hold() -> None:
    """Codes and query at their largest everywhere."""
    wide = np.ones((4, 512), np.float32) * np.array([[1.0], [3.0], [-1.0], [-3.0]], np.float32)
    assert coded(wide, nlist=1).search(wide[:1], 2).rows.tolist() == [[1, 0]]
    with pytest.raises(BadInput, match=r"513 dimensions.*512"):
        coded(np.ones((4, 513), np.float32), nlist=1)


def test_comparing_rows_leaves_no_trace_in_the_file(tmp_path: Path, clustered: tuple[Matrix, Matrix]) -> None:
    ads, queries = clustered
    index = ivf(ads, nlist=64, nprobe=4)
    index.save(tmp_path / "before")
    few = np.arange(len(ads)) < 9
    assert sorted(index.search(queries[:1], 20, few).rows[0].tolist()) == [-1] * 11 + list(range(9))
    index.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    assert (index.search(queries[:1], 20, few).rows >= 0).sum() == 9, "and may be searched so again"


def test_searches_of_different_nprobe_do_not_race(narrow: FaissCpuIndex) -> None:
    queries = np.random.default_rng(7).standard_normal((40, 16)).astype(np.float32)
    jobs = [(narrow.with_nprobe(nprobe), query[None]) for query in queries for nprobe in (1, 4, 64)] * 3
    alone = [index.search(query, 10).rows.tolist() for index, query in jobs]
    state = narrow.index.nprobe
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(lambda job: job[0].search(job[1], 10).rows.tolist(), jobs))
    assert crowd == alone
    assert alone[0] != alone[2], "the jobs do differ"
    assert narrow.index.nprobe == state, "nprobe is never written into the index"


def test_exact_search_of_a_large_batch_in_blocks(vectors: Matrix, queries: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ExactIndex(vectors).search(queries, 12).rows.tolist()
    monkeypatch.setattr("indexer.index._SCORES_AT_ONCE", 2 * len(vectors))
    assert ExactIndex(vectors).search(queries, 12).rows.tolist() == expected


@pytest.mark.parametrize("vectors", [np.empty((0, 4), np.float32), np.ones((3, 2)), np.ones(3, np.float32)])
def test_exact_refuses_what_is_no_matrix_of_ads(vectors: Matrix) -> None:
    with pytest.raises(BadInput, match="float32"):
        ExactIndex(vectors)


def test_faiss_indices_of_another_metric_or_without_ads_are_refused() -> None:
    distance = faiss.IndexFlatL2(3)
    distance.add(np.ones((2, 3), np.float32))
    with pytest.raises(BadInput, match="inner products"):
        FaissCpuIndex(distance, None)
    with pytest.raises(BadInput, match="no ads"):
        FaissCpuIndex(faiss.IndexFlatIP(3), None)


@pytest.mark.parametrize(
    ("added", "says"),
    [
        (np.ones((2, 11), np.float32), r"\(2, 11\).*\(M, 12\)"),
        (np.ones((0, 12), np.float32), r"\(0, 12\)"),
        (np.ones((2, 12)), "float64"),
        (np.ones(12, np.float32), r"\(12,\)"),
        (np.full((1, 12), np.nan, np.float32), "NaN"),
    ],
)
def test_what_does_not_fit_cannot_be_added(vectors: Matrix, added: Matrix, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        GrownIndex(ExactIndex(vectors), added)


def test_added_ads_are_found_exactly_whatever_the_base_approximates(narrow: FaissCpuIndex) -> None:
    random = np.random.default_rng(13)
    added, queries = random.standard_normal((400, 16)).astype(np.float32), random.standard_normal((30, 16)).astype(np.float32)
    grown = GrownIndex(narrow, added)
    own, found = narrow.search(queries, 40), grown.search(queries, 40)
    for at, query in enumerate(queries):
        above = {5000 + row for row in np.flatnonzero(added @ query > found.scores[at, -1] + 1e-5)}
        assert above <= set(found.rows[at].tolist())
        kept = [row for row in found.rows[at] if row < 5000]
        assert kept == own.rows[at, : len(kept)].tolist(), "the base's own keep their order"
    assert (found.rows >= 5000).any()


def test_a_kept_kernel_that_cannot_be_used_is_thrown_away_and_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, imported = tmp_path / "kernels", importlib.import_module
    kept.mkdir()
    failures = [EOFError("cut short")]

    def once(name: str, package: str | None = None) -> Any:
        if name == "indexer.lists_kernel" and failures:
            raise failures.pop()
        return imported(name, package)

    monkeypatch.setattr(importlib, "import_module", once)
    monkeypatch.setattr(compiler, "_kept", [kept])
    assert coded_lists._kernel(64) is imported("indexer.lists_kernel").scan_of(64)
    assert not kept.exists() and not compiler._kept
    failures.append(EOFError("again"))
    with pytest.raises(EOFError, match="again"):  # nothing was kept: the cache is not what is wrong
        coded_lists._kernel(64)
