"""Tables that do not know a part of their training pairs: what is learned from the rest can be asked about that part, as it
will be asked about days to come.

A pair is withheld with all its events, in every domain, and from the histories. Shapes: B rows, L history length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.schema import AD_ID
from trainer.tables import Tables

Rows = NDArray[Any]


class Withheld:
    """Reads like `tables` where a Sampler or a graph reads them; the training split is what was kept.

    share: of the distinct pairs of user and ad. history: its columns in the user codes. rows: the withheld events, rising."""

    def __init__(self, tables: Tables, share: float, history: slice, seed: int) -> None:
        self._tables, self._history = tables, history
        pair = self._pairs(*(np.asarray(tables.column("train", name), dtype=np.int64) for name in ("user_row", "ad_row")))
        distinct, at = np.unique(pair, return_inverse=True)
        chosen = np.random.default_rng(seed).random(len(distinct)) < share
        self._withheld = distinct[chosen]
        self.rows, self._kept = np.flatnonzero(chosen[at]), np.flatnonzero(~chosen[at])
        column = next(one.start for one in tables.schema.block("ad").fields if one.name == AD_ID)
        codes = tables.ad_block(np.arange(len(tables.ads)), 0)[0][:, column]
        self._ad_row_of_code = np.full(int(codes.max(initial=0)) + 1, -1, dtype=np.int64)
        self._ad_row_of_code[codes] = np.arange(len(codes))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)

    def column(self, split: str, name: str) -> Rows:
        whole = self._tables.column(split, name)
        return np.asarray(whole[self._kept]) if split == "train" else whole

    def user_block(self, user_rows: Rows, domain: int | Rows) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        codes, dense = self._tables.user_block(user_rows, domain)
        return self.forgotten(codes, user_rows), dense

    def forgotten(self, user_codes: NDArray[np.int32], user_rows: Rows) -> NDArray[np.int32]:
        """A copy of user_codes (B, Iu) whose histories have none of the withheld pairs."""
        codes = np.array(user_codes)
        history_BL = codes[:, self._history]
        pair_BL = self._pairs(np.asarray(user_rows, dtype=np.int64)[:, None], self._ad_row_of_code[history_BL])
        history_BL[np.isin(pair_BL, self._withheld)] = 0
        return codes

    def _pairs(self, user_row: Rows, ad_row: Rows) -> Rows:
        return np.asarray(user_row * len(self._tables.ads) + ad_row)
