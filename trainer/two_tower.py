"""What every retriever is: something that scores ads for users of a domain. What can be served is a TwoTower: two embeddings
of one width whose inner product is that score.

Shapes: U users, A ads, B rows, E embedding width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.schema import BlockName
from trainer.sampling import Entities, Negatives, Positives, sampled_softmax

Rows = NDArray[np.int64]
Scorer = Callable[[Rows], Tensor]

_EMBEDDED_ROWS = 8_192


class Retriever(nn.Module):
    """Base of retrievers. One with `fit_whole(tables, settings)` is fitted by it, again when it is to know more."""

    def scorer(self, tables: Entities, ad_rows: Rows, domain: int) -> Scorer:
        """user_rows (U,) -> score_UA of each of `ad_rows` (A,) in the domain: float32, the caller's to change. What concerns
        the ads alone is done once."""
        raise NotImplementedError

    def prepare(self, tables: Entities) -> None:
        """Start from what the training positives tell; called once before training, and before loading a checkpoint."""

    def extend(self, tables: Entities) -> None:
        """Take in that `tables` now hold a held-out split among the training positives; called before the pass over it."""


class TwoTower(Retriever):
    """dimension: E. The domain is a Python int: a batch is domain-pure, an exported graph holds one."""

    dimension: int

    def scorer(self, tables: Entities, ad_rows: Rows, domain: int) -> Scorer:
        """Inner products."""
        where = device_of(self)
        ad_AE = _embedded(self.ad_embedding, tables.ad_block, ad_rows, domain, where)
        return lambda user_rows: _embedded(self.user_embedding, tables.user_block, user_rows, domain, where) @ ad_AE.T

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Iu) int32, dense: (B, Nu) float32 -> (B, E) float32."""
        raise NotImplementedError

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        """codes: (B, Ia) int32, dense: (B, Na) float32 -> (B, E) float32."""
        raise NotImplementedError

    def training_loss(self, batch: Positives, negatives: Negatives) -> Tensor:
        """Sampled softmax of the batch's positives against its own ads and the uniform ones."""
        user_BE = self.user_embedding(batch.user_codes, batch.user_dense, batch.domain)
        ad_UE = self.ad_embedding(negatives.ad_codes, negatives.ad_dense, batch.domain)
        return sampled_softmax(user_BE @ ad_UE.T, negatives)

    def narrowed(self, side: BlockName, domain: int) -> TwoTower:
        """The model with the tables of one side in one domain alone: a tower's file holds no embedding that the tower does not
        read. What a traced graph leaves out by itself (other modules, other parameters) may stay."""
        return self

    def settle(self, measure: Callable[[], float | None]) -> None:
        """Choose, by a metric on the validation split, what stands beside the towers; called once, before training."""

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups, each with its learning rate."""
        return [{"params": list(self.parameters()), "lr": lr}]

    def _with(self, **modules: nn.Module) -> Self:
        """A copy with some modules replaced; everything else is shared with it."""
        changed = copy.copy(self)
        changed._modules = {**self._modules, **modules}
        return changed


def device_of(model: nn.Module) -> torch.device:
    return next((one.device for one in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _embedded(tower: Any, block: Any, rows: Rows, domain: int, where: torch.device) -> Tensor:
    parts = [tower(*(torch.from_numpy(one).to(where) for one in block(chunk, domain)), domain) for chunk in _chunks(rows)]
    return torch.cat(parts)


def _chunks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, max(1, len(rows)), _EMBEDDED_ROWS):
        yield rows[start : start + _EMBEDDED_ROWS]
