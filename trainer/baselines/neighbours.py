"""Neighbours by overlap (Jaccard): item-CF and user-CF in their plainest form, without a parameter to tune.

IoU(x, y) = |x and y| / |x or y| of two sets: of two ads, the users who took them; of two users, the ads they took.
item-CF  score(u, a) = sum of IoU(h, a) over the ads h that u took, a itself among them where u took it
user-CF  score(u, a) = sum of IoU(u, v) over the other users v who took a

Shapes as in histories.py; X, Y sets, N what they are sets of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from contracts.schema import FeatureSchema
from trainer.baselines.histories import Compare, Histories
from trainer.sampling import Entities
from trainer.two_tower import Rows


@dataclass(frozen=True)
class ItemCFConfig:
    """pooled: over what was taken in any domain, not in the own one alone."""

    pooled: bool = False


@dataclass(frozen=True)
class UserCFConfig:
    """Nothing to choose: histories of all domains."""


class ItemCF(Histories):
    """Holds, while it scores, a number for every two ads that share a user."""

    def __init__(self, schema: FeatureSchema, config: ItemCFConfig = ItemCFConfig()) -> None:
        super().__init__()
        self.config = config

    def comparison(self, tables: Entities, ad_rows: Rows, domain: int) -> tuple[Compare, float]:
        """The least IoU above 0 of two ads is 1 / U."""
        taken_UA = self.taken(tables, None if self.config.pooled else domain)
        near_AC = overlap(taken_UA.T.tocsr(), taken_UA[:, ad_rows].T.tocsr())

        def compare(user_rows: Rows) -> NDArray[np.float32]:
            near_BC = taken_UA[user_rows] @ near_AC
            return np.asarray(near_BC.toarray())

        return compare, 1.0 / taken_UA.shape[0]


class UserCF(Histories):
    def __init__(self, schema: FeatureSchema, config: UserCFConfig = UserCFConfig()) -> None:
        super().__init__()
        self.config = config

    def comparison(self, tables: Entities, ad_rows: Rows, domain: int) -> tuple[Compare, float]:
        """The least IoU above 0 of two users is 1 / A."""
        taken_UA = self.taken(tables)
        taken_UC = taken_UA[:, ad_rows]

        def compare(user_rows: Rows) -> NDArray[np.float32]:
            near_BU = overlap(taken_UA[user_rows], taken_UA)
            near_BU.data[near_BU.indices == _rows(near_BU, user_rows)] = 0.0
            return np.asarray((near_BU @ taken_UC).toarray())

        return compare, 1.0 / taken_UA.shape[1]


def overlap(sets_XN: sparse.csr_array, sets_YN: sparse.csr_array) -> sparse.csr_array:
    """(X, Y): IoU of every two rows that share a column."""
    shared_XY = (sets_XN @ sets_YN.T).tocsr()
    size_X, size_Y = np.diff(sets_XN.indptr), np.diff(sets_YN.indptr)
    either = _rows(shared_XY, size_X) + size_Y[shared_XY.indices] - shared_XY.data
    shared_XY.data = (shared_XY.data / either).astype(np.float32)
    return shared_XY


def _rows(matrix_XY: sparse.csr_array, value_X: NDArray[Any]) -> NDArray[Any]:
    """The value of its row for each entry."""
    return np.repeat(value_X, np.diff(matrix_XY.indptr))
