"""What is true of an index on a GPU only; where there is none, a stand-in hands each search to FAISS on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from index_world import gpu, ivf

from contracts.errors import BadInput
from indexer.build import build_index
from indexer.gpu import FaissGpuIndex, device_number, gpu_count
from indexer.index import FaissCpuIndex
from indexer.policy import IndexSpec


@pytest.mark.skipif(gpu_count() > 0, reason="this machine has a GPU")
def test_without_a_gpu_the_gpu_index_names_the_remedy(narrow: FaissCpuIndex) -> None:
    with pytest.raises(BadInput, match=r"device cpu"):
        FaissGpuIndex(narrow)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01, 0.0005])
def test_gpu_answers_as_cpu_under_any_mask(narrow: FaissCpuIndex, share: float) -> None:
    queries = np.random.default_rng(8).standard_normal((20, 16)).astype(np.float32)
    eligible = np.random.default_rng(9).random(5000) < share
    for index in (narrow.with_nprobe(64), narrow.with_nprobe(8)):
        expected, found = index.search(queries, 10, eligible), gpu(index).search(queries, 10, eligible)
        finite = np.isfinite(expected.scores)
        assert (np.isfinite(found.scores) == finite).all()
        np.testing.assert_allclose(found.scores[finite], expected.scores[finite], rtol=1e-4, atol=1e-4)


def test_gpu_hands_wide_answers_to_the_cpu(narrow: FaissCpuIndex) -> None:
    """2,048 is all that a GPU selects: 3,000 come from the CPU, and the answer is the same."""
    query = np.ones((1, 16), np.float32)
    assert gpu(narrow).search(query, 3000).rows.tolist() == narrow.search(query, 3000).rows.tolist()


@pytest.mark.parametrize("k", [512, 513])
def test_gpu_hands_wide_answers_from_coded_lists_to_the_cpu(k: int) -> None:
    vectors = np.random.default_rng(12).standard_normal((3000, 16)).astype(np.float32)
    built, _ = build_index(vectors, vectors[:1], IndexSpec("ivf_sq8", 8, 8), "test", 1, 0.0, seed=0)
    assert isinstance(built, FaissCpuIndex)
    found, expected = gpu(built).search(vectors[:3], k), built.search(vectors[:3], k)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-4)


def test_one_search_at_a_time_on_a_gpu(narrow: FaissCpuIndex) -> None:
    """Two indices on one GPU share its scratch memory: the lock is the device's."""
    indices = (gpu(narrow), gpu(narrow.with_nprobe(64)))
    queries = np.random.default_rng(10).standard_normal((200, 1, 16)).astype(np.float32)
    assert indices[0]._on is indices[1]._on
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(lambda at: indices[at % 2].search(queries[at], 10).rows.tolist(), range(200)))
    assert crowd == [indices[at % 2].search(queries[at], 10).rows.tolist() for at in range(200)]


def test_device_names() -> None:
    assert [device_number(name) for name in ("gpu", "gpu:0", "gpu:3")] == [0, 0, 3]
    for wrong in ("cuda", "gpu:x", "gpu:-1", ""):
        with pytest.raises(BadInput, match="use cpu"):
            device_number(wrong)


def test_a_device_leaves_out_the_best_ad_when_it_is_barred() -> None:
    """No two scores are equal, so that nothing but the bar asks for another order."""
    vectors = np.arange(1, 41, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    eligible = np.arange(40) != 39
    found = gpu(ivf(vectors)).search(np.ones((1, 4), np.float32), 3, eligible)
    assert found.rows.tolist() == [[38, 37, 36]]
