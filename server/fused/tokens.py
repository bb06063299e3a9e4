"""Inputs -> tokens, and which of them a whole request shares.

Tokens of user, context and domain are the same for every candidate, those of the ad are not: whatever is linear in the tokens
splits into a share that is computed once a request and a share a candidate (`Split`). S shared tokens, F own tokens, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contracts.architecture import BlockTokens
from contracts.errors import BadInput
from contracts.schema import BlockName
from server.fused import kernels
from server.fused.weights import F32, NotFused, Weights

Feeds = Mapping[str, np.ndarray[Any, Any]]
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
        found = [self._blocks[name].tokens(feeds)[0] for name in self._blocks if name in _SHARED]
        if self._domain_DE is not None:
            found.append(self._domain_DE[self.domain(feeds)][None])
        return np.concatenate(found)

    def of_ads(self, feeds: Feeds) -> F32:
        """tokens_CFE."""
        return self._blocks["ad"].tokens(feeds)

    def domain(self, feeds: Feeds) -> int:
        domain = int(feeds["domain"][0])
        if not 0 <= domain < self._domains:
            raise BadInput(f"domain number {domain} is not one of {self._domains}")
        return domain


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

    def tokens(self, feeds: Feeds) -> F32:
        """tokens_RFE of the block's R rows. Raises BadInput for a code outside its table."""
        codes, dense = feeds.get(f"{self._name}_codes"), feeds.get(f"{self._name}_dense")
        coded = len(self._lengths)
        rows = len(codes) if codes is not None else len(dense) if dense is not None else 1
        tokens_RFE = np.empty((rows, self._count, self._table_VE.shape[1]), dtype=np.float32)
        if coded:
            codes_RI = np.require(codes, np.int32, ["C", "W"])
            if codes_RI.ndim != 2 or codes_RI.shape[1] <= self._columns.max():
                raise BadInput(f"{self._name}_codes has shape {codes_RI.shape}")
            read = (self._columns, self._offsets, self._sizes, self._lengths, self._scalars)
            if not kernels.look_up(self._table_VE, codes_RI, *read, tokens_RFE):
                raise BadInput(f"{self._name}_codes has a code that its feature does not have")
        if self._numbers:
            assert dense is not None
            tokens_RFE[:, coded:] = dense[:, self._numbers, None] * self._weight_1NE + self._bias_1NE
        return tokens_RFE


def _columns(tokens: Sequence[int], width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (np.array(tokens, dtype=np.int64)[:, None] * width + np.arange(width)).reshape(-1)
