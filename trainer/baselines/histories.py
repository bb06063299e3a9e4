"""Retrievers that compare whole histories: who took what is all they keep, and no embedding stands for it.

Users and ads are rows here, not id codes: an id seen once has no code of its own, but it is a neighbour like any other.

Shapes: U users, A ads, P pairs, B users asked about, C ads asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from trainer.fit import FitSettings
from trainer.sampling import Entities, Pairs, training_pairs
from trainer.two_tower import Retriever, Rows, Scorer

Compare = Callable[[Rows], NDArray[np.float32]]


class Histories(Retriever):
    """pairs_P3: distinct (user_row, ad_row, domain) that were taken.

    Ties are broken by how many users took the ad in the domain, as a share of `step`: something below what the comparison tells
    apart. A user without history, to whom every ad is equal, so sees the popular ones.
    """

    pairs_P3: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pairs_P3", torch.zeros(0, 3, dtype=torch.int32))

    def fit_whole(self, tables: Entities, settings: FitSettings) -> None:
        pairs, ads, domains = training_pairs(tables), len(tables.ads), len(tables.schema.domains)
        place, domain = np.divmod(np.unique((pairs.user_row * ads + pairs.ad_row) * domains + pairs.domain), domains)
        distinct_P3 = np.stack([*np.divmod(place, ads), domain], axis=1).astype(np.int32)
        self.pairs_P3 = torch.from_numpy(distinct_P3).to(self.pairs_P3.device)

    def scorer(self, tables: Entities, ad_rows: Rows, domain: int) -> Scorer:
        compare, step = self.comparison(tables, ad_rows, domain)
        count_C = self.taken(tables, domain)[:, ad_rows].sum(axis=0)
        tie_C = (step * count_C / (count_C.max(initial=0.0) + 1.0)).astype(np.float32)
        return lambda user_rows: torch.from_numpy(compare(user_rows) + tie_C)

    def comparison(self, tables: Entities, ad_rows: Rows, domain: int) -> tuple[Compare, float]:
        """user_rows (B,) -> how near each of `ad_rows` is, (B, C) float32, without ties broken; and the step between two ads that
        it need not tell apart."""
        raise NotImplementedError

    def taken(self, tables: Entities, domain: int | None = None) -> sparse.csr_array:
        """(U, A) float32, 1 where the user took the ad, in the domain given or in any."""
        pairs = Pairs(*self.pairs_P3.cpu().numpy().T)
        pairs = pairs if domain is None else pairs.of(domain)
        ones = np.ones(len(pairs.user_row), dtype=np.float32)
        taken_UA = sparse.csr_array((ones, (pairs.user_row, pairs.ad_row)), (len(tables.users), len(tables.ads)))
        taken_UA.data[:] = 1.0  # taken in two domains is taken
        return taken_UA

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """As many rows as were kept, whatever stands here."""
        for name, buffer in self.named_buffers():
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
