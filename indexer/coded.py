"""An index of 8-bit codes in lists, and whole vectors for the last word: memory-mapped arrays and one compiled scan.

Ads lie in lists around means (k-means). What an ad differs from its list's mean is kept as one 8-bit integer a dimension. A
query scores lists by their means, then codes by integer products; the ads whose codes score best are compared by their whole
vectors, so that scores are exact.

How many lists are visited is not fixed. A list's ads are taken to score at most `reach` standard deviations above its mean,
and it is visited while that is more than the k-th best score found so far. A query with many ads near it visits few, one whose
few eligible ads lie scattered visits many, and none gets fewer than min(k, eligible) ads. 100k ads, k = 500: .95 of them found
in 10,200 ads scored on average; with an equal number of FAISS's lists for every query 15,000.
"""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from contracts.errors import BadInput, BundleError
from contracts.files import load_array, save_array
from contracts.manifest import IndexEntry
from indexer import compiler
from indexer.index import NARROW, PADDING, REBUILD, ExactIndex, Found, Mask, Matrix, Rows, checked, from_keys, open_exact

LISTS = "lists"  # the folder, beside the file of whole vectors
_SPARE = 1.1  # share of k compared exactly: codes misplace a few at the last places
_TRAINING_ADS_PER_LIST = 64
_ITERATIONS = 10
_LARGEST_CODE, _LARGEST_QUERY = 127, 32767
_MOST_DIMENSIONS = 512  # of which a product of codes and query still fits 32 bits
_BLOCK = 32  # of dimensions
_NO_MASK = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True)
class Lists:
    """L lists over N ads, list after list. start_L: (L + 1,) where each begins; row_N: the ads' rows; codes_NW: what they differ
    from their list's mean_LE, in units of step_E, padded to W bytes; spread_L: deviation of one dimension from that mean."""

    codes_NW: np.ndarray[Any, np.dtype[np.int8]]
    row_N: np.ndarray[Any, np.dtype[np.int32]]
    start_L: Rows
    mean_LE: Matrix
    spread_L: Matrix
    step_E: Matrix


class CodedIndex:
    """reach: in hundredths of a standard deviation; it belongs to this object, the lists may be shared."""

    def __init__(self, vectors_NE: Matrix, lists: Lists, reach: int) -> None:
        self.exact = ExactIndex(vectors_NE)
        n, dimension = vectors_NE.shape
        nlist = len(lists.mean_LE)
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "codes_NW": (np.int8, (n, _padded(dimension))),
            "row_N": (np.int32, (n,)),
            "start_L": (np.int64, (nlist + 1,)),
            "mean_LE": (np.float32, (nlist, dimension)),
            "spread_L": (np.float32, (nlist,)),
            "step_E": (np.float32, (dimension,)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(lists, name)
            if (array.dtype, array.shape) != (dtype, shape):
                raise BadInput(f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        if lists.start_L[0] != 0 or lists.start_L[-1] != n or (np.diff(lists.start_L) < 0).any():
            raise BadInput(f"start_L does not divide {n} ads into lists")
        self.lists, self.reach = lists, reach
        longest = float(np.sqrt(np.square(lists.mean_LE).sum(axis=1).max()))
        self._length = longest + _LARGEST_CODE * float(np.linalg.norm(lists.step_E))
        self._scan = _kernel(lists.codes_NW.shape[1])
        # Numba knows arrays, not maps of files.
        self._vectors_NE = np.asarray(vectors_NE)
        self._arrays = [np.asarray(one) for one in (lists.codes_NW, lists.row_N, lists.start_L)]

    @property
    def size(self) -> int:
        return self.exact.size

    @property
    def dimension(self) -> int:
        return self.exact.dimension

    @property
    def nlist(self) -> int:
        return len(self.lists.mean_LE)

    def with_reach(self, reach: int) -> CodedIndex:
        """The same lists; both objects may search at once."""
        return CodedIndex(self.exact.vectors_NE, self.lists, reach)

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        query_BE, width, eligible_N = checked(self, query_BE, k, eligible_N)
        eligible = _NO_MASK
        if eligible_N is not None:
            if np.count_nonzero(eligible_N) <= NARROW * self.size:
                return self.exact.search(query_BE, k, eligible_N)
            eligible = np.ascontiguousarray(eligible_N).view(np.uint8)
        keys_BK = np.full((len(query_BE), width), PADDING, dtype=np.int64)
        middle_BL = query_BE @ self.lists.mean_LE.T
        for keys_K, query_E, middle_L in zip(keys_BK, query_BE, middle_BL, strict=True):
            found = self._keys(query_E, middle_L, math.ceil(_SPARE * width), eligible)
            found.sort()
            keys_K[: len(found)] = found[:width]
        return from_keys(keys_BK)

    def save(self, path: Path) -> None:
        """`path`, and the folder of lists beside it."""
        self.exact.save(path)
        for one in fields(Lists):
            save_array(_file(path, one.name), getattr(self.lists, one.name))

    def _keys(self, query_E: Matrix, middle_L: Matrix, k: int, eligible_N: np.ndarray[Any, np.dtype[np.uint8]]) -> Rows:
        lists, length = self.lists, float(np.sqrt(query_E @ query_E))
        bound_L = middle_L + np.float32(self.reach / 100 * length) * lists.spread_L
        stepped_E = query_E * lists.step_E
        scale = float(np.abs(stepped_E).max()) / _LARGEST_QUERY or 1.0
        whole_W = np.zeros(lists.codes_NW.shape[1], np.int16)
        whole_W[: self.dimension] = np.rint(stepped_E / np.float32(scale))
        limit = length * self._length or 1.0
        found: Rows = self._scan(
            *self._arrays, middle_L, bound_L, whole_W, scale, limit, k, eligible_N, self._vectors_NE, query_E
        )
        return found


def train_coded(vectors_NE: Matrix, nlist: int, seed: int) -> CodedIndex:
    """Lists by seeded k-means and their codes; it reaches nowhere yet. Equal bytes for equal input and seed. Raises BadInput for
    more dimensions than an integer product holds."""
    dimension = vectors_NE.shape[1]
    if dimension > _MOST_DIMENSIONS:
        raise BadInput(f"ads have {dimension} dimensions, 8-bit lists take {_MOST_DIMENSIONS}", "use ivf_flat or ivf_sq8")
    means = faiss.Clustering(dimension, nlist)
    means.seed, means.niter, means.max_points_per_centroid = seed, _ITERATIONS, _TRAINING_ADS_PER_LIST
    nearest: Any = faiss.IndexFlatL2(dimension)
    means.train(vectors_NE, nearest)
    return CodedIndex(vectors_NE, divided(vectors_NE, nearest.search(vectors_NE, 1)[1][:, 0], nlist), 0)


def divided(vectors_NE: Matrix, list_N: Rows, nlist: int) -> Lists:
    """Lists of ads of which each says its list."""
    n, dimension = vectors_NE.shape
    row_N = np.argsort(list_N, kind="stable").astype(np.int32)
    start_L = np.concatenate([[0], np.cumsum(np.bincount(list_N, minlength=nlist))]).astype(np.int64)
    mean_LE, spread_L = np.zeros((nlist, dimension), np.float32), np.zeros(nlist, np.float32)
    largest_E = np.zeros(dimension, np.float32)
    spans = [slice(start, end) for start, end in itertools.pairwise(start_L.tolist())]
    for at, span in enumerate(spans):
        if span.start < span.stop:
            own_ME = vectors_NE[row_N[span]]
            mean_LE[at] = own_ME.mean(axis=0, dtype=np.float64)
            rest_ME = own_ME - mean_LE[at]
            spread_L[at] = np.sqrt(np.square(rest_ME).mean(dtype=np.float64))
            np.maximum(largest_E, np.abs(rest_ME).max(axis=0), out=largest_E)
    step_E = np.where(largest_E > 0, largest_E / np.float32(_LARGEST_CODE), np.float32(1))
    codes_NW = np.zeros((n, _padded(dimension)), np.int8)
    for at, span in enumerate(spans):
        codes_NW[span, :dimension] = np.rint((vectors_NE[row_N[span]] - mean_LE[at]) / step_E)
    return Lists(codes_NW, row_N, start_L, mean_LE, spread_L, step_E)


def open_coded(path: Path, entry: IndexEntry, cache: Path | None) -> CodedIndex:
    """cache: where machine code is kept between starts. Raises BundleError naming the file that does not fit."""
    if "reach" not in entry.parameters:
        raise BundleError(f"{path}: its entry of kind {entry.kind!r} names no reach", REBUILD)
    if cache is not None:
        compiler.configure(cache)
    vectors_NE = open_exact(path).vectors_NE
    lists = Lists(**{one.name: load_array(_file(path, one.name)) for one in fields(Lists)})
    try:
        index = CodedIndex(vectors_NE, lists, entry.parameters["reach"])
        if lists.row_N.min() < 0 or lists.row_N.max() >= index.size:
            raise BadInput("row_N names rows that are not there")
    except BadInput as error:
        raise BundleError(f"{path.parent / LISTS} does not fit {path.name}: {error.message}", REBUILD) from None
    return index


def _padded(dimension: int) -> int:
    """W: products fill vectors without a rest."""
    return -(-dimension // _BLOCK) * _BLOCK


def _file(path: Path, name: str) -> Path:
    return path.parent / LISTS / f"{name.rpartition('_')[0]}.npy"


def _kernel(width: int) -> Any:
    """The scan of codes of so many bytes: compiled on first use, or read from where the compiler keeps it."""
    compiler.use_wide_vectors()

    def made() -> Any:
        return importlib.import_module("indexer.lists_kernel").scan_of(width)

    try:
        return made()
    except ImportError:
        raise
    except Exception as error:  # Numba trusts what stands in its cache, and raises whatever reading that raises
        compiler.without_cache(error)
        return made()
