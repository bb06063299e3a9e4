"""External ids on one side, dense row numbers on the other. Outside this file rows are what travels."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BundleError
from contracts.files import load_array, save_array

_ENCODING = "utf-8"
_BULK = 4096  # ids looked up at once, beyond which a dict of all is worth making: training does that, a server never


class IdTable:
    """An ordered set of external ids (any unicode string); id number `row` stands at position `row`.

    Stored as one UTF-8 blob and an offset per id, and for the way back the ids' checksums in order with their rows: all of it
    memory-mapped, so that workers share the bytes. A dict of a million ids is 150 MB in each.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        encoded = [one.encode(_ENCODING, "surrogatepass") for one in ids]
        self._blob: np.ndarray[Any, Any] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._offsets: np.ndarray[Any, Any] = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(one) for one in encoded], out=self._offsets[1:])
        if len(set(encoded)) != len(encoded):
            raise ValueError("ids are not unique")
        self._sum(encoded)

    @classmethod
    def load(cls, stem: Path) -> IdTable:
        """Read what `save(stem)` wrote."""
        table = cls.__new__(cls)
        # Plain views of the mapped pages: indexing a memmap object costs about 6 us an id.
        table._blob = np.asarray(load_array(_part(stem, "blob")))
        table._offsets = np.asarray(load_array(_part(stem, "offsets")))
        if len(table._offsets) == 0 or table._offsets[-1] != len(table._blob):
            raise BundleError(f"{_part(stem, 'blob')} and its offsets disagree", "the file was cut short or altered; rebuild it")
        if not _part(stem, "sums").exists():  # written by a version that had none
            table._sum(table._bytes(row) for row in range(len(table)))
            return table
        table._sums = np.asarray(load_array(_part(stem, "sums")))
        table._row_by_sum = np.asarray(load_array(_part(stem, "rows")))
        if not len(table._sums) == len(table._row_by_sum) == len(table):
            raise BundleError(f"{_part(stem, 'sums')} and its rows are not {len(table)}", "a file was altered; rebuild it")
        return table

    def save(self, stem: Path) -> None:
        """Write `<stem>.{blob,offsets,sums,rows}.npy`."""
        save_array(_part(stem, "blob"), self._blob)
        save_array(_part(stem, "offsets"), self._offsets)
        save_array(_part(stem, "sums"), self._sums)
        save_array(_part(stem, "rows"), self._row_by_sum)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._bytes(row).decode(_ENCODING, "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Iterable[int]) -> list[str]:
        return [self[int(row)] for row in rows]

    def find(self, ids: Sequence[str | None]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """rows_B: (B,) int64, -1 where the id is not in the table or None."""
        if len(ids) > _BULK:
            get = self._row_of.get
            return np.fromiter((get(one, -1) for one in ids), dtype=np.int64, count=len(ids))
        encoded = [None if one is None else one.encode(_ENCODING, "surrogatepass") for one in ids]
        sums_B = np.fromiter((zlib.crc32(one or b"") for one in encoded), np.uint32, len(encoded))
        if not len(self):
            return np.full(len(encoded), -1, dtype=np.int64)
        first_B = self._sums.searchsorted(sums_B)
        rows_B: np.ndarray[Any, np.dtype[np.int64]] = self._row_by_sum[np.minimum(first_B, len(self) - 1)].astype(np.int64)
        blob, spans = self._blob.data, zip(self._offsets[rows_B].tolist(), self._offsets[rows_B + 1].tolist(), strict=True)
        for at, (one, (start, end)) in enumerate(zip(encoded, spans, strict=True)):
            if one is None or blob[start:end] != one:  # unknown, or not the first of its checksum
                rows_B[at] = self._at(one, int(sums_B[at]), int(first_B[at]))
        return rows_B

    def _sum(self, encoded: Iterable[bytes]) -> None:
        sums = np.fromiter(map(zlib.crc32, encoded), np.uint32, len(self))
        self._row_by_sum: np.ndarray[Any, Any] = np.argsort(sums, kind="stable").astype(np.int32)
        self._sums: np.ndarray[Any, Any] = sums[self._row_by_sum]

    def _at(self, encoded: bytes | None, wanted: int, place: int) -> int:
        """The row of an id, from the first of those that have its checksum; -1 where none of them is it."""
        while place < len(self._sums) and self._sums[place] == wanted:
            row = int(self._row_by_sum[place])
            if self._bytes(row) == encoded:
                return row
            place += 1
        return -1

    def _bytes(self, row: int) -> bytes:
        return self._blob[self._offsets[row] : self._offsets[row + 1]].tobytes()

    @cached_property
    def _row_of(self) -> dict[str | None, int]:
        blob, offsets = self._blob.tobytes(), self._offsets.tolist()
        return {blob[start:end].decode(_ENCODING, "surrogatepass"): row for row, (start, end) in enumerate(pairwise(offsets))}


def _part(stem: Path, part: str) -> Path:
    return stem.with_name(f"{stem.name}.{part}.npy")
