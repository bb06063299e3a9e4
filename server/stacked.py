"""Rows of a bundle's ad table and a few more after them, without a copy: its arrays stay mapped, and shared between workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np

from contracts.ids import IdTable

Scalar = TypeVar("Scalar", bound=np.generic)
Rows = np.ndarray[Any, np.dtype[np.int64]]


class Stacked(Generic[Scalar]):
    """(N + M, W): rows 0 .. N-1 of `first` (N, W), N at least 1, then those of `second` (M, W)."""

    def __init__(self, first: np.ndarray[Any, np.dtype[Scalar]], second: np.ndarray[Any, np.dtype[Scalar]]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: Rows) -> np.ndarray[Any, np.dtype[Scalar]]:
        """rows: (C,) -> (C, W)."""
        late = rows >= len(self.first)
        if not late.any():
            return self.first[rows]
        taken: np.ndarray[Any, np.dtype[Scalar]] = self.first[np.where(late, 0, rows)]
        taken[late] = self.second[rows[late] - len(self.first)]
        return taken


class StackedIds:
    """Ids of two tables, those of `second` after those of `first`; no id is in both."""

    def __init__(self, first: IdTable, second: IdTable) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, row: int) -> str:
        own = len(self.first)
        return self.first[row] if row < own else self.second[row - own]

    def __iter__(self) -> Iterator[str]:
        return chain(self.first, self.second)

    def take(self, rows: Iterable[int]) -> list[str]:
        return [self[int(row)] for row in rows]

    def find(self, ids: Sequence[str]) -> Rows:
        """rows_B: (B,) int64, -1 where the id is in neither."""
        rows, late = self.first.find(ids), self.second.find(ids)
        return np.where(late < 0, rows, late + len(self.first))
