"""External ids on one side, dense row numbers on the other. Outside this file rows are what travels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BundleError
from contracts.files import load_array, save_array

_ENCODING = "utf-8"


class IdTable:
    """An ordered set of external ids (any unicode string); id number `row` stands at position `row`.

    Stored as one UTF-8 blob and an offset per id, memory-mapped, so that workers share the bytes; the reverse
    look-up is a dict built on first use.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        encoded = [one.encode(_ENCODING, "surrogatepass") for one in ids]
        self._blob: np.ndarray[Any, Any] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._offsets: np.ndarray[Any, Any] = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(one) for one in encoded], out=self._offsets[1:])
        if len(set(encoded)) != len(encoded):
            raise ValueError("ids are not unique")

    @classmethod
    def load(cls, stem: Path) -> IdTable:
        """Read what `save(stem)` wrote."""
        table = cls.__new__(cls)
        # Plain views of the mapped pages: indexing a memmap object costs about 6 us an id.
        table._blob = np.asarray(load_array(_part(stem, "blob")))
        table._offsets = np.asarray(load_array(_part(stem, "offsets")))
        if len(table._offsets) == 0 or table._offsets[-1] != len(table._blob):
            raise BundleError(f"{_part(stem, 'blob')} and its offsets disagree", "the file was cut short or altered; rebuild it")
        return table

    def save(self, stem: Path) -> None:
        """Write `<stem>.blob.npy` and `<stem>.offsets.npy`."""
        save_array(_part(stem, "blob"), self._blob)
        save_array(_part(stem, "offsets"), self._offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return bytes(self._blob[self._offsets[row] : self._offsets[row + 1]]).decode(_ENCODING, "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Iterable[int]) -> list[str]:
        return [self[int(row)] for row in rows]

    def find(self, ids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """rows_B: (B,) int64, -1 where the id is not in the table."""
        get = self._row_of.get
        return np.fromiter((get(one, -1) for one in ids), dtype=np.int64, count=len(ids))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        blob, offsets = self._blob.tobytes(), self._offsets.tolist()
        return {blob[start:end].decode(_ENCODING, "surrogatepass"): row for row, (start, end) in enumerate(pairwise(offsets))}


def _part(stem: Path, part: str) -> Path:
    return stem.with_name(f"{stem.name}.{part}.npy")
