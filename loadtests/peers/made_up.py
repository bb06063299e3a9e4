"""Users and ads that nobody saw, of any number: what publishing reads of `trainer.tables.Tables`, and two models with random
weights. Only the shape is real: quality is neither trained nor wanted.

Ads lie in clusters of unequal size: a cluster is a template of the ads' attributes, which each ad keeps in part. A user's
attributes follow the template of the cluster liked, and the retriever gives the i-th attribute of both sides the same
embeddings. So users lie between clusters, as after training. Searching 100,000 of these ads takes as many lists as in the world
of loadtests/search.py (182 of 1,265).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.ids import IdTable
from contracts.schema import FIRST, FeatureSchema
from loadtests import ranker_forms
from trainer.adi import ADI, ADIConfig
from trainer.dsfm import DSFM, industrial

Codes = tuple[NDArray[np.int32], NDArray[np.float32]]

DIMENSION = 64  # of embeddings
_KEPT = 0.75  # share of a template's values that one of its ads or users has
_DAY = 20_000


@dataclass(frozen=True)
class MadeUp:
    """domains: those that a step works on; schema.domains: all there are. user_codes: (U, 14), ad_codes: (A, 12) int32 in the
    order of the schema; bids: (A,) float32. Every domain has every ad."""

    schema: FeatureSchema
    domains: tuple[str, ...]
    users: IdTable
    ads: IdTable
    user_codes: NDArray[np.int32]
    ad_codes: NDArray[np.int32]
    bids: NDArray[np.float32]

    @classmethod
    def draw(cls, users: int, ads: int, domains: int, seed: int) -> MadeUp:
        schema = ranker_forms.schema(users, ads, domains)
        random = np.random.default_rng(seed)
        attributes = schema.block("ad").code_width - 1  # the id apart
        templates = random.integers(0, ranker_forms.LEVELS, (max(50, round(2 * ads**0.5)), attributes))
        liked_U = random.integers(0, len(templates), users)
        cluster_A = random.zipf(1.3, ads) % len(templates)
        user_width = schema.block("user").code_width - 1
        return cls(
            schema=schema,
            domains=schema.domains,
            users=schema.vocabularies["user_id"],
            ads=schema.vocabularies["ad_id"],
            user_codes=_codes(templates[liked_U], user_width, random),
            ad_codes=_codes(templates[cluster_A], attributes, random),
            bids=random.lognormal(0.0, 0.5, ads).astype(np.float32),
        )

    def at(self, split: str) -> MadeUp:
        return self

    def user_block(self, rows: NDArray[Any], domain: int) -> Codes:
        return self.user_codes[rows], _nothing(rows)

    def ad_block(self, rows: NDArray[Any], domain: int) -> Codes:
        return self.ad_codes[rows], _nothing(rows)

    def user_sides(self, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """No feature is of side user_domain."""
        inside = np.zeros((len(rows), len(self.schema.domains), 0))
        return self.user_codes[rows], _nothing(rows), inside.astype(np.int32), inside.astype(np.float32)

    def eligible(self, domain: int) -> NDArray[np.int32]:
        return np.arange(len(self.ads), dtype=np.int32)

    def popular(self, domain: int) -> NDArray[np.int32]:
        return self.eligible(domain)

    def bid(self, domain: int) -> NDArray[np.float32]:
        return self.bids

    def domain_rows(self, split: str, domain: int) -> NDArray[np.int64]:
        """One event a user: where to draw the queries from that measure an index."""
        return np.arange(len(self.users))

    def column(self, split: str, name: str) -> NDArray[np.int64]:
        if name != "user_row":
            raise KeyError(name)
        return np.arange(len(self.users))

    def retriever(self, seed: int) -> ADI:
        torch.manual_seed(seed)
        model = retriever_of(self.schema)
        offsets, weight = model.embedding._offsets, model.embedding.weight
        with torch.no_grad():
            for tower in (model.user_tower, model.ad_tower):
                for weights in tower.heads.parameters():
                    torch.nn.init.normal_(weights, std=0.01)  # of zeros, where training begins, nothing would be computed
            for at in range(self.schema.block("ad").code_width - 1):
                ours, theirs = offsets[f"u{at}"], offsets[f"a{at}"]
                size = FIRST + ranker_forms.LEVELS
                weight[ours : ours + size] = weight[theirs : theirs + size]
        return model.eval()

    def ranker(self, sensitive: Sequence[str], seed: int) -> DSFM:
        torch.manual_seed(seed)
        model = DSFM(self.schema, industrial(), sensitive)
        ranker_forms.spread(model)
        return model.eval()

    def user_rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
        """counts (U, D), vectors (U, D, 0) and day for feature_store.user_rows: DSFM reads no vectors."""
        shape = (len(self.users), len(self.schema.domains))
        return np.zeros(shape, dtype=np.float32), np.zeros((*shape, 0), dtype=np.float32), _DAY


def retriever_of(schema: FeatureSchema) -> ADI:
    """Towers of DIMENSION values and nothing beside them."""
    return ADI(schema, ADIConfig(width=DIMENSION, graph=None, popularity=False))


def _codes(template_NF: NDArray[np.int64], width: int, random: np.random.Generator) -> NDArray[np.int32]:
    """(N, 1 + width) int32: the row's id, then attributes, most of which follow the template as far as it goes."""
    rows, known = len(template_NF), template_NF.shape[1]
    values = random.integers(0, ranker_forms.LEVELS, (rows, width))
    kept = random.random((rows, known)) < _KEPT
    values[:, :known] = np.where(kept, template_NF, values[:, :known])
    return (np.column_stack([np.arange(rows), values]) + FIRST).astype(np.int32)


def _nothing(rows: NDArray[Any]) -> NDArray[np.float32]:
    """A block's dense matrix: no feature is a number."""
    return np.zeros((len(rows), 0), dtype=np.float32)
