"""Every index over the same random vectors."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from index_world import MAKERS, MakeIndex, ivf

from indexer.index import FaissCpuIndex, Matrix


@pytest.fixture(params=MAKERS)
def make_index(request: pytest.FixtureRequest) -> MakeIndex:
    return MAKERS[request.param]


@pytest.fixture
def vectors() -> Matrix:
    """(300, 12): lengths differ by a factor of ten, so that L2 and cosine order the ads otherwise than inner product."""
    random = np.random.default_rng(1)
    return (random.standard_normal((300, 12)) * random.uniform(0.2, 2.0, (300, 1))).astype(np.float32)


@pytest.fixture
def queries() -> Matrix:
    return np.random.default_rng(2).standard_normal((9, 12)).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_faiss_thread() -> None:
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="module")
def narrow() -> FaissCpuIndex:
    """5,000 ads in 64 lists, one visited."""
    vectors = np.random.default_rng(4).standard_normal((5000, 16)).astype(np.float32)
    return ivf(vectors, nlist=64, nprobe=1)
