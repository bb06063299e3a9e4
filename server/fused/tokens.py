"""Inputs -> tokens, and which of them a whole request shares.

Tokens of user, context and domain are the same for every candidate, those of the ad are not: whatever is linear in the tokens
splits into a share that is computed once a request and a share a candidate (`Split`). S shared tokens, F own tokens, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.architecture import BlockTokens
from contracts.errors import BadInput
from contracts.schema import BlockName
from server.fused import kernels
from server.fused.weights import F32, NotFused, Weights

Rows = np.ndarray[Any, np.dtype[np.int64]]
Feeds = Mapping[str, np.ndarray[Any, Any]]
I32 = np.ndarray[Any, np.dtype[np.int32]]
_SMALL, _NOWHERE = 1 << 14, -(1 << 40)
_SHARED: tuple[BlockName, ...] = ("user", "context")


class Tokens:
    """The embedding of one ranker. shared, own: token numbers, in the order in which `of_request` and `of_ads` give them."""

    def __init__(self, weights: Weights) -> None:
        of = weights.architecture
        self._table_VE = weights.take("embedding.weight", None, None)
        self.width = self._table_VE.shape[1]
        self._domain_DE = weights.take("embedding.domain_weight", of.domains, self.width) if of.domain_token else None
        self._blocks = {name: _Block(name, block, weights, self._table_VE) for name, block in of.blocks.items()}
        self.shared: list[int] = []
        self.own: list[int] = []
        self.count = 0
        for name, block in of.blocks.items():
            (self.own if name == "ad" else self.shared).extend(range(self.count, self.count + block.count))
            self.count += block.count
        if of.domain_token:
            self.shared.append(self.count)
            self.count += 1
        self._domains = of.domains

    def of_request(self, feeds: Feeds) -> F32:
        """tokens_SE of user, context and domain."""
        found = [self._blocks[name].read(feeds)[0][0] for name in self._blocks if name in _SHARED]
        if self._domain_DE is not None:
            found.append(self._domain_DE[self.domain(feeds)][None])
        return np.concatenate(found)

    def of_ads(self, feeds: Feeds) -> Own:
        block = self._blocks["ad"]
        return Own(*block.read(feeds), block.small)

    def domain(self, feeds: Feeds) -> int:
        domain = int(feeds["domain"][0])
        if not 0 <= domain < self._domains:
            raise BadInput(f"domain number {domain} is not one of {self._domains}")
        return domain


class SmallTables:
    """Where the rows of small tables stand side by side: row r of field g at r + slot_G[g], a negative number for large tables,
    whose values candidates have less in common."""

    def __init__(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        small = [size if size <= _SMALL else 0 for size in sizes]
        self.slots = sum(small)
        ends = np.cumsum([0, *small])
        self.slot_G = np.array(
            [end - offset if size else _NOWHERE for end, offset, size in zip(ends, offsets, small, strict=False)], np.int64
        )


@dataclass(frozen=True)
class Own:
    """Candidates' own tokens. rows_CG: rows of the embedding that the first G tokens of each are."""

    tokens_CFE: F32
    rows_CG: I32
    table: SmallTables

    def __len__(self) -> int:
        return len(self.tokens_CFE)

    def __getitem__(self, some: slice) -> Own:
        return Own(self.tokens_CFE[some], self.rows_CG[some], self.table)

    def followed_by(self, token_CE: F32) -> Own:
        return Own(np.concatenate([self.tokens_CFE, token_CE[:, None]], axis=1), self.rows_CG, self.table)

    def distinct(self) -> tuple[F32, Rows]:
        """token_NE and which_CF: token_NE[which_CF] are the candidates' tokens, and a row of a small table stands there once: ads
        have most of their features' values in common."""
        width = self.tokens_CFE.shape[2]
        which_CF = np.empty(self.tokens_CFE.shape[:2], np.int64)
        first_N, seen = np.empty(which_CF.size, np.int64), np.full(self.table.slots, -1, np.int32)
        count = kernels.distinct(self.rows_CG, self.table.slot_G, seen, which_CF, first_N)
        return self.tokens_CFE.reshape(-1, width).take(first_N[:count], axis=0), which_CF


class Split:
    """Columns of flattened tokens: what is linear in them is share_n (once a request) + tokens_own @ own (a candidate)."""

    def __init__(self, shared: Sequence[int], own: Sequence[int], width: int) -> None:
        self.shared, self.own = _columns(shared, width), _columns(own, width)

    def __call__(self, weight: F32, bias: F32) -> tuple[F32, F32, F32]:
        """(shared, own, bias): matrices (in, out) of a layer over all tokens."""
        if weight.shape[1] != len(self.shared) + len(self.own):
            raise NotFused(f"a first layer reads {weight.shape[1]} columns of {len(self.shared) + len(self.own)}")
        shared, own = (np.ascontiguousarray(weight[:, one].T) for one in (self.shared, self.own))
        return shared, own, bias


class _Block:
    def __init__(self, name: BlockName, block: BlockTokens, weights: Weights, table_VE: F32) -> None:
        self._name, self._table_VE, self._count, self._scalars = name, table_VE, block.count, block.scalars
        described = (block.columns, block.offsets, block.sizes, block.lengths)
        self._columns, self._offsets, self._sizes, self._lengths = (np.array(one, dtype=np.int64) for one in described)
        self.small = SmallTables(block.offsets[: block.scalars], block.sizes[: block.scalars])
        read = len(block.columns)
        if not sum(block.lengths) == read == len(block.offsets) == len(block.sizes) or min(block.lengths, default=1) < 1:
            raise NotFused(f"the {name} block says it reads {read} codes, its tokens have {sum(block.lengths)}")
        ends = self._offsets + self._sizes
        if read and (min(block.offsets) < 0 or min(block.columns) < 0 or int(ends.max()) > len(table_VE)):
            raise NotFused(f"the {name} block reads beyond the {len(table_VE)} rows of the embedding")
        self._numbers = block.numbers
        if block.numbers:
            shape = (1, len(block.numbers), table_VE.shape[1])
            self._weight_1NE = weights.take(f"embedding._block.{name}.dense_weight", *shape)
            self._bias_1NE = weights.take(f"embedding._block.{name}.dense_bias", *shape)

    def read(self, feeds: Feeds) -> tuple[F32, I32]:
        """tokens_CFE of the block's rows, and which rows of the embedding the first of them are. Raises BadInput for a code
        outside its table."""
        codes, dense = feeds.get(f"{self._name}_codes"), feeds.get(f"{self._name}_dense")
        count = len(codes) if codes is not None else len(dense) if dense is not None else 1
        rows_CI = np.empty((count, 0), np.int32)
        if len(self._columns):
            assert codes is not None
            rows_CI = self._rows(np.require(codes, np.int32, ["C", "W"]))
        rows_CG = np.ascontiguousarray(rows_CI[:, : self._scalars])
        if self._scalars == self._count:
            return self._table_VE.take(rows_CG, axis=0), rows_CG
        tokens_CFE = np.empty((count, self._count, self._table_VE.shape[1]), dtype=np.float32)
        tokens_CFE[:, : self._scalars] = self._table_VE.take(rows_CG, axis=0)
        coded = len(self._lengths)
        if coded > self._scalars:
            kernels.pool(self._table_VE, rows_CI, self._offsets, self._lengths, self._scalars, tokens_CFE)
        if self._numbers:
            assert dense is not None
            tokens_CFE[:, coded:] = dense[:, self._numbers, None] * self._weight_1NE + self._bias_1NE
        return tokens_CFE, rows_CG

    def _rows(self, codes: I32) -> I32:
        """rows_CI of the embedding, for every code that is read."""
        if codes.ndim != 2 or codes.shape[1] <= self._columns.max():
            raise BadInput(f"{self._name}_codes has shape {codes.shape}")
        rows_CI = np.empty((len(codes), len(self._columns)), np.int32)
        if not kernels.table_rows(codes, self._columns, self._offsets, self._sizes, rows_CI):
            raise BadInput(f"{self._name}_codes has a code that its feature does not have")
        return rows_CI


def _columns(tokens: Sequence[int], width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (np.array(tokens, dtype=np.int64)[:, None] * width + np.arange(width)).reshape(-1)
