"""One protocol: exact (numpy), coded lists (coded.py), FAISS on the CPU or a GPU (gpu.py), any of them grown (grown.py). All
maximise the inner product.

Shapes: B queries, E embedding dimensions, N ads, K answers. What every index promises:
- `search(query_BE, k, eligible_N)` -> (scores_BK float32, rows_BK int64) with K = min(k, N), best first, equal scores by row;
- every query gets min(k, number of eligible ads) ads, however few lists an approximate search visits. The rest of its
  row is padding: row -1, score -inf, always last; without `eligible` there is none. Where few ads are eligible, they are
  compared one and all: that is exact, and faster than to pass over the others;
- a search changes nothing in the index, so any number may run at once. FAISS keeps nprobe as index state, which two
  requests race for (faiss #2204): here it travels with each call.

FAISS threads are the caller's: one query never uses more than one; a batch uses OMP_NUM_THREADS.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import faiss
import numpy as np

from contracts.errors import BadInput, BundleError
from contracts.files import aside, load_array, save_array
from contracts.manifest import IndexEntry

if TYPE_CHECKING:
    from indexer.coded import CodedIndex

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Rows = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

NO_ROW = -1
PADDING = (0x7F800000 << 32) | 0xFFFFFFFF  # the key of (-inf, NO_ROW)
_ROW_BITS = 0xFFFFFFFF
_SCORES_AT_ONCE = 1 << 24  # exact search holds at most this many scores (64 MiB), however large the batch
# Share of eligible ads up to which they alone are compared. 100k ads, 64 dimensions, k = 500, ms a query, by rows / by IVF /
# by a masked matrix product: 5% 1.1 / 1.2 / 7.2, 2% .5 / 1.0 / 6.6, 1% .2 / .7 / 6.1.
NARROW = 0.05
_DEEPER = 2 / 3  # power of the share of eligible ads with which nprobe grows
_DIRECT_MAP: Any = getattr(faiss, "DirectMap")  # noqa: B009  its type stubs do not know it
_MAPPING = threading.Lock()  # held while a FAISS index gets or loses its map from rows to lists
REBUILD = "the file was cut short or altered; rebuild the bundle or roll back"


class Found(NamedTuple):
    """scores: (B, K) float32 inner products, -inf where padded; rows: (B, K) int64, -1 where padded."""

    scores: Matrix
    rows: Rows


class Index(Protocol):
    """What retrieval needs from an index, whichever it is."""

    @property
    def size(self) -> int: ...

    @property
    def dimension(self) -> int: ...

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        """The k eligible ads of highest inner product. Raises BadInput naming the argument that does not fit."""


class StoredIndex(Index, Protocol):
    """An index that a bundle holds."""

    def save(self, path: Path) -> None:
        """Write aside and rename; equal content, equal bytes."""


class ExactIndex:
    """Brute force over an (N, E) float32 matrix, memory-mapped when it comes from a file. Ties go to the lowest rows."""

    def __init__(self, vectors_NE: Matrix) -> None:
        if vectors_NE.ndim != 2 or vectors_NE.dtype != np.float32 or 0 in vectors_NE.shape:
            raise BadInput(f"vectors are {vectors_NE.dtype} {vectors_NE.shape}, not a float32 (N, E) with N and E at least 1")
        self.vectors_NE = vectors_NE

    @property
    def size(self) -> int:
        return int(self.vectors_NE.shape[0])

    @property
    def dimension(self) -> int:
        return int(self.vectors_NE.shape[1])

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        query_BE, width, eligible_N = checked(self, query_BE, k, eligible_N)
        scores_BK = np.full((len(query_BE), width), -np.inf, dtype=np.float32)
        rows_BK = np.full((len(query_BE), width), NO_ROW, dtype=np.int64)
        candidates = None if eligible_N is None else np.flatnonzero(eligible_N)
        if candidates is not None and len(candidates) <= NARROW * self.size:
            return _among(self.vectors_NE[candidates], candidates, query_BE, width)
        block = max(1, _SCORES_AT_ONCE // self.size)
        for start in range(0, len(query_BE), block):
            for at, scores_N in enumerate(query_BE[start : start + block] @ self.vectors_NE.T, start):
                best = _best(scores_N if candidates is None else scores_N[candidates], width)
                best = best if candidates is None else candidates[best]
                scores_BK[at, : len(best)] = scores_N[best]
                rows_BK[at, : len(best)] = best
        return Found(scores_BK, rows_BK)

    def save(self, path: Path) -> None:
        save_array(path, self.vectors_NE)


class FaissCpuIndex:
    """A trained FAISS index (IVF, or flat when nprobe is None); nprobe: lists visited by each search of this object.

    Which of several equal scores make the last place is FAISS's choice; those returned are ordered by row.
    """

    def __init__(self, index: Any, nprobe: int | None) -> None:
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BadInput("the FAISS index does not measure inner products", "build it with METRIC_INNER_PRODUCT")
        if index.ntotal == 0:
            raise BadInput("the FAISS index holds no ads")
        self.index, self.nprobe = index, nprobe

    @property
    def size(self) -> int:
        return int(self.index.ntotal)

    @property
    def dimension(self) -> int:
        return int(self.index.d)

    @property
    def nlist(self) -> int:
        return int(self.index.nlist) if self.nprobe is not None else 1

    def with_nprobe(self, nprobe: int) -> FaissCpuIndex:
        """The same lists, visited more or less widely; both objects may search at once."""
        return FaissCpuIndex(self.index, nprobe)

    def search(self, query_BE: Matrix, k: int, eligible_N: Mask | None = None) -> Found:
        query_BE, width, eligible_N = checked(self, query_BE, k, eligible_N)
        available = self.size if eligible_N is None else int(np.count_nonzero(eligible_N))
        if eligible_N is not None and available <= NARROW * self.size:
            rows_M = np.flatnonzero(eligible_N)
            return _among(self._vectors(rows_M), rows_M, query_BE, width)
        # When every eligible ad is wanted, every list must be visited.
        nprobe = self.nlist if available <= width else self.nprobe_for(available)
        found = self._search(query_BE, width, eligible_N, nprobe)
        short_B = found.rows[:, min(width, available) - 1] < 0
        if short_B.any():  # the lists visited held too few eligible ads: these queries visit all of them
            whole = self._search(query_BE[short_B], width, eligible_N, self.nlist)
            found.scores[short_B], found.rows[short_B] = whole
        return found

    def save(self, path: Path) -> None:
        with aside(path) as temporary, _MAPPING:
            if self.nprobe is not None:
                self.index.set_direct_map_type(_DIRECT_MAP.NoMap)  # it would be written, too
            faiss.write_index(self.index, str(temporary))

    def nprobe_for(self, available: int) -> int | None:
        """Lists to visit where `available` ads are eligible: of fewer ads the k best lie deeper, in more lists. 100k ads,
        recall@500 of all .87; of the eligible half, fifth and tenth .82, .71, .62 with the same nprobe, .91, .95, .97 with this
        one. A square root instead gave .89, .91, .92, and lost a twentieth in another world."""
        if self.nprobe is None:
            return None
        return min(self.nlist, math.ceil(self.nprobe * float((self.size / available) ** _DEEPER)))

    def _vectors(self, rows_M: Rows) -> Matrix:
        """(M, E) as the index keeps them. FAISS needs a map from rows to lists for that, 8 bytes an ad, made on first use."""
        if self.nprobe is not None:
            with _MAPPING:
                if self.index.direct_map.type == _DIRECT_MAP.NoMap:
                    self.index.set_direct_map_type(_DIRECT_MAP.Array)
        vectors_ME: Matrix = self.index.reconstruct_batch(rows_M)
        return vectors_ME

    def _search(self, query_BE: Matrix, width: int, eligible_N: Mask | None, nprobe: int | None) -> Found:
        parameters = search_parameters(None if self.nprobe is None else nprobe, eligible_N)
        return ordered(*self.index.search(query_BE, width, params=parameters))


def open_index(entry: IndexEntry, directory: Path, device: str = "cpu", cache: Path | None = None) -> Index:
    """Open what `build_domain` wrote into `directory` (a bundle's domains/<i>).

    device: "cpu" (memory-mapped, so that workers share its pages), "gpu" or "gpu:N", which compares whole vectors where the CPU
    has coded lists; cache: where compiled code is kept between starts, None for nowhere. Raises BundleError naming the file when
    it is missing, cut short or not the one that `entry` describes, BadInput when there is no such device.
    """
    path = directory / entry.file
    index: ExactIndex | FaissCpuIndex | CodedIndex
    if entry.kind == "exact" or (entry.kind == "ivf_int8" and device != "cpu"):
        index = open_exact(path)
    elif entry.kind == "ivf_int8":
        from indexer.coded import open_coded

        index = open_coded(path, entry, cache)
    else:
        index = _open_faiss(path, entry, mmap=device == "cpu")
    if (index.size, index.dimension) != (entry.size, entry.dimension):
        found, expected = f"{index.size} x {index.dimension}", f"{entry.size} x {entry.dimension}"
        raise BundleError(f"{path} holds {found} values, its entry says {expected}", REBUILD)
    if device == "cpu" or not isinstance(index, ExactIndex | FaissCpuIndex):
        return index
    from indexer.gpu import FaissGpuIndex, device_number

    return FaissGpuIndex(as_faiss(index), device_number(device))


def as_faiss(index: ExactIndex | FaissCpuIndex) -> FaissCpuIndex:
    """The same ads as a FAISS index: flat for an exact one."""
    if isinstance(index, FaissCpuIndex):
        return index
    flat = faiss.IndexFlatIP(index.dimension)
    flat.add(np.ascontiguousarray(index.vectors_NE))
    return FaissCpuIndex(flat, None)


def checked(index: Index, query_BE: Matrix, k: int, eligible_N: Mask | None) -> tuple[Matrix, int, Mask | None]:
    """(contiguous float32 queries, answer width min(k, N), mask) or BadInput."""
    query_BE = np.ascontiguousarray(query_BE, dtype=np.float32)
    if query_BE.ndim != 2 or query_BE.shape[1] != index.dimension:
        raise BadInput(f"query has shape {query_BE.shape}, the index takes (B, {index.dimension})")
    if not np.isfinite(query_BE).all():
        raise BadInput("query holds NaN or infinity")
    if k < 1:
        raise BadInput(f"k is {k}", "ask for at least one ad")
    if eligible_N is not None and (eligible_N.shape != (index.size,) or eligible_N.dtype != np.bool_):
        raise BadInput(f"eligible is {eligible_N.dtype} of shape {eligible_N.shape}, the index takes bool ({index.size},)")
    return query_BE, min(k, index.size), eligible_N


def search_parameters(nprobe: int | None, eligible_N: Mask | None = None) -> Any:
    """What FAISS reads for this one call. nprobe: None for a flat index; it applies the mask inside its scan."""
    library: Any = faiss  # its type stubs know the C++ signatures only
    options: dict[str, Any] = {} if nprobe is None else {"nprobe": nprobe}
    if eligible_N is not None:
        options["sel"] = library.IDSelectorBitmap(np.packbits(eligible_N, bitorder="little"))
    return library.SearchParameters(**options) if nprobe is None else library.SearchParametersIVF(**options)


def ordered(scores_BK: Matrix, rows_BK: Rows) -> Found:
    """FAISS's answer in this protocol's order: best first, equal scores by row, padding (-inf, -1) last; rows of -1 may stand
    anywhere and have any score. FAISS gives the best first: where no two scores are equal, which is nearly always, and no row is
    missing there is nothing to do."""
    if (scores_BK[:, 1:] < scores_BK[:, :-1]).all() and (rows_BK >= 0).all():
        return Found(scores_BK, rows_BK)
    keys_BK = _keys(np.where(rows_BK < 0, np.float32(-np.inf), scores_BK), rows_BK)
    keys_BK.sort(axis=1)
    return from_keys(keys_BK)


def from_keys(keys_BK: Rows) -> Found:
    """Undo what makes one sortable integer of a score and its row."""
    rising_BK = ~(keys_BK >> 32).astype(np.int32)
    return Found(_flipped(rising_BK).view(np.float32), keys_BK.astype(np.int32).astype(np.int64))


def _keys(scores: Matrix, rows: Rows) -> Rows:
    """Integers that order as (falling score, rising row). Of any shape."""
    rising = _flipped((scores + np.float32(0)).view(np.int32))  # -0 is 0
    keys: Rows = ((~rising).astype(np.int64) << 32) | (rows & _ROW_BITS)
    return keys


def _flipped(bits: np.ndarray[Any, np.dtype[np.int32]]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """A float32's bits as an integer that orders as the number does, and back."""
    flipped: np.ndarray[Any, np.dtype[np.int32]] = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return flipped


def _among(vectors_ME: Matrix, rows_M: Rows, query_BE: Matrix, width: int) -> Found:
    """Exact search over rows_M alone, in ascending order, whose vectors these are; padded to `width`."""
    scores_BK = np.full((len(query_BE), width), -np.inf, dtype=np.float32)
    rows_BK = np.full((len(query_BE), width), NO_ROW, dtype=np.int64)
    if len(rows_M):
        found = ExactIndex(vectors_ME).search(query_BE, width)
        count = found.rows.shape[1]
        scores_BK[:, :count], rows_BK[:, :count] = found.scores, rows_M[found.rows]
    return Found(scores_BK, rows_BK)


def _best(scores_N: Matrix, k: int) -> Rows:
    """Positions of the k highest scores, best first; of equal scores the lowest positions, also at the last place."""
    if k < len(scores_N):
        last = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        above = np.flatnonzero(scores_N > last)
        chosen = np.concatenate([above, np.flatnonzero(scores_N == last)[: k - len(above)]])
    else:
        chosen = np.arange(len(scores_N))
    best: Rows = np.sort(_keys(scores_N[chosen], chosen)) & _ROW_BITS
    return best


def open_exact(path: Path) -> ExactIndex:
    vectors_NE = load_array(path)
    try:
        return ExactIndex(vectors_NE)
    except BadInput as error:
        raise BundleError(f"{path}: {error.message}", REBUILD) from None


def _open_faiss(path: Path, entry: IndexEntry, mmap: bool) -> FaissCpuIndex:
    if not path.is_file():
        raise BundleError(f"{path} is missing", REBUILD)
    if "nprobe" not in entry.parameters:
        raise BundleError(f"{path}: its entry of kind {entry.kind!r} names no nprobe", REBUILD)
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mmap else 0)
        opened = FaissCpuIndex(index, entry.parameters["nprobe"])
    except (RuntimeError, MemoryError, BadInput) as error:  # FAISS reports every unreadable file as a RuntimeError
        reason = str(error).rsplit("Error: ", 1)[-1].splitlines()[0]
        raise BundleError(f"{path} is not a readable FAISS index: {reason}", REBUILD) from None
    if mmap:  # mapped lists start 32 read-ahead threads for every search: 336 us a search with them, 42 us without
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0
    return opened
