"""Positives and sampled negatives for retrieval: domain-pure batches whose softmax runs over the batch's own ads and over
uniformly drawn ones, with the log-Q correction (Yi et al., RecSys 2019; mixed negative sampling, Yang et al., WWW 2020).

A batch of B positives of domain d has C = B + B' columns: column b < B is positive b's ad, the others are drawn uniformly
from the eligible ads V_d. A random column holds ad a with Q(a) = (B f_d(a) + B' [a in V_d] / |V_d|) / (B + B'), f_d the
ad's frequency among d's positives; B' = 0 is plain in-batch sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from contracts.ids import IdTable
from contracts.schema import AD_ID, FeatureSchema
from trainer.history import leave_one_out

Rows = NDArray[np.int64]


class Pairs(NamedTuple):
    """Positive pairs. user_row, ad_row, domain: (P,) int64."""

    user_row: Rows
    ad_row: Rows
    domain: Rows

    @classmethod
    def concat(cls, parts: Sequence[Pairs]) -> Pairs:
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def of(self, domain: int) -> Pairs:
        return Pairs(*(column[self.domain == domain] for column in self))


class Positives(NamedTuple):
    """B positives of one domain. user_codes: (B, Iu) int32, user_dense: (B, Nu) float32, user_row: (B,) int64."""

    domain: int
    user_codes: Tensor
    user_dense: Tensor
    user_row: Tensor


class Negatives(NamedTuple):
    """The softmax's columns, folded onto their U distinct ads: m equal columns are one with log m added.

    ad_codes: (U, Ia) int32, ad_dense: (U, Na) float32; own_B: (B,) int64, the place of row b's positive among the U;
    offset_BU: (B, U) float32, what is added to the inner product: log m - log Q, or -inf for an accidental hit (a known
    positive of the row's user); -log Q for the row's own ad, whose other columns are accidental hits too.
    """

    ad_codes: Tensor
    ad_dense: Tensor
    own_B: Tensor
    offset_BU: Tensor


class Entities(Protocol):
    """What retrievers read of trainer.tables.Tables."""

    schema: FeatureSchema
    users: IdTable
    ads: IdTable

    def column(self, split: str, name: str) -> NDArray[Any]: ...

    def user_block(self, rows: Rows, domain: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...

    def ad_block(self, rows: Rows, domain: int | Rows) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...

    def eligible(self, domain: int) -> NDArray[np.int32]: ...


def training_pairs(tables: Entities) -> Pairs:
    """Every training event with label 1, repeats included."""
    positive = np.flatnonzero(np.asarray(tables.column("train", "label")) == 1)
    return Pairs(*(np.asarray(tables.column("train", name)[positive], dtype=np.int64) for name in Pairs._fields))


def sampled_softmax(score_BU: Tensor, negatives: Negatives) -> Tensor:
    """Mean cross-entropy of each row's own ad. score_BU: (B, U), inner products over the temperature where there is one."""
    return cross_entropy(score_BU + negatives.offset_BU, negatives.own_B)


def column_probability(frequency_A: NDArray[np.float64], eligible: Rows, in_batch: int, uniform: int) -> NDArray[np.float64]:
    """Q(a) of a random column. frequency_A: (A,), sums to 1; eligible: V_d as rows; in_batch: B; uniform: B'."""
    probability = in_batch * frequency_A
    if uniform:
        probability[eligible] += uniform / len(eligible)
    return probability / (in_batch + uniform)


class Sampler:
    """Yields an epoch's batches, domains in random turn; the same batches for the same seed and epoch.

    A pair that occurs twice counts twice in f_d. batch_size: upper bound of B; a domain's rows are
    spread evenly over its batches. uniform: B' at a full batch; it shrinks with B, so B : B' stays.
    """

    def __init__(self, tables: Entities, batch_size: int, uniform: int, seed: int = 0) -> None:
        self.tables, self.pairs, self.ads = tables, training_pairs(tables), len(tables.ads)
        self.batch_size, self.uniform, self.seed = batch_size, uniform, seed
        schema = tables.schema
        self.domains = range(len(schema.domains))
        self.ad_id_column = next(one.start for one in schema.block("ad").fields if one.name == AD_ID)
        self.eligible = [np.asarray(tables.eligible(domain), dtype=np.int64) for domain in self.domains]
        self.known = [_Known(self.pairs.of(domain)) for domain in self.domains]

    def epoch(self, number: int, pseudo: Pairs | None = None) -> Iterator[tuple[Positives, Negatives]]:
        """pseudo: pseudo-positives of self-training, drawn like positives in this epoch."""
        rng = np.random.default_rng([self.seed, number])
        pairs = self.pairs if pseudo is None else Pairs.concat([self.pairs, pseudo])
        parts: list[tuple[int, Pairs]] = []
        frequency: dict[int, NDArray[np.float64]] = {}
        for domain in self.domains:
            own = pairs.of(domain)
            count = len(own.ad_row)
            if count == 0:
                continue
            frequency[domain] = np.bincount(own.ad_row, minlength=self.ads) / count
            chunks = np.array_split(rng.permutation(count), -(-count // self.batch_size))
            parts += [(domain, Pairs(*(column[chunk] for column in own))) for chunk in chunks]
        for turn in rng.permutation(len(parts)):
            domain, part = parts[turn]
            yield self._batch(domain, part, frequency[domain], rng)

    def _batch(
        self, domain: int, part: Pairs, frequency: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[Positives, Negatives]:
        eligible, size = self.eligible[domain], len(part.ad_row)
        uniform = round(self.uniform * size / self.batch_size) if len(eligible) else 0
        drawn = rng.choice(eligible, uniform) if uniform else np.empty(0, dtype=np.int64)
        columns = np.concatenate([part.ad_row, drawn])
        ads, column, times = np.unique(columns, return_inverse=True, return_counts=True)
        log_q = np.log(column_probability(frequency, eligible, size, uniform)[ads])
        rows, own = np.arange(size), column[:size]
        offset = np.repeat((np.log(times) - log_q).astype(np.float32)[None], size, axis=0)
        offset[self.known[domain].among(part.user_row, ads)] = -np.inf
        offset[rows, own] = -log_q[own]
        ad_codes, ad_dense = self.tables.ad_block(ads, domain)
        user_codes, user_dense = self.tables.user_block(part.user_row, domain)
        user_codes = leave_one_out(self.tables.schema, user_codes, ad_codes[own, self.ad_id_column])
        positives = Positives(domain, *_tensors(user_codes, user_dense, part.user_row))
        return positives, Negatives(*_tensors(ad_codes, ad_dense, own, offset))


class _Known:
    """Each user's positive ads in one domain, sorted by user."""

    def __init__(self, pairs: Pairs) -> None:
        order = np.argsort(pairs.user_row, kind="stable")
        self.user, self.ad = pairs.user_row[order], pairs.ad_row[order]

    def among(self, user_row: Rows, ads: Rows) -> tuple[Rows, Rows]:
        """Every (b, u) where ads[u] is a known positive of user_row[b]. ads: (U,) sorted."""
        start, end = np.searchsorted(self.user, user_row, "left"), np.searchsorted(self.user, user_row, "right")
        length = end - start
        row = np.repeat(np.arange(len(user_row)), length)
        within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        ad = self.ad[start[row] + within]
        at = np.minimum(np.searchsorted(ads, ad), len(ads) - 1)
        present = ads[at] == ad
        return row[present], at[present]


def _tensors(*arrays: NDArray[Any]) -> list[Tensor]:
    return [torch.from_numpy(np.require(one, requirements="W")) for one in arrays]
