"""DNN-single (arXiv 2206.09672, table 3): each domain has a retriever of its own, with its own embedding tables, graph and
popularity, that never saw a row of another domain. Features of the user, the history among them, are what they are everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.schema import BlockName, FeatureSchema
from trainer import neural_towers
from trainer.baselines.dnn import DNN
from trainer.neural_towers import TowerConfig
from trainer.sampling import Entities, Negatives, Positives, Rows
from trainer.spectral import GraphConfig, settle
from trainer.two_tower import TwoTower


class DNNSingle(TwoTower):
    """Each domain's DNN has one domain, its number 0."""

    def __init__(self, schema: FeatureSchema, config: TowerConfig) -> None:
        super().__init__()
        self.alone = nn.ModuleList(DNN(replace(schema, domains=(name,)), config) for name in schema.domains)
        self.dimension = self.of(0).dimension

    def of(self, domain: int) -> DNN:
        return cast(DNN, self.alone[domain])

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        return self.of(domain).user_embedding(codes, dense, 0)

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        return self.of(domain).ad_embedding(codes, dense, 0)

    def training_loss(self, batch: Positives, negatives: Negatives) -> Tensor:
        return self.of(batch.domain).training_loss(batch._replace(domain=0), negatives)

    def prepare(self, tables: Entities) -> None:
        for domain in range(len(self.alone)):
            self.of(domain).prepare(_Alone(tables, domain))

    def extend(self, tables: Entities) -> None:
        for domain in range(len(self.alone)):
            self.of(domain).extend(_Alone(tables, domain))

    def settle(self, measure: Callable[[], float | None]) -> None:
        """One strength for all: a domain of few rows could not tell."""
        settle([graph for domain in range(len(self.alone)) if (graph := self.of(domain).graph) is not None], measure)

    def narrowed(self, side: BlockName, domain: int) -> TwoTower:
        alone = list(self.alone)
        alone[domain] = self.of(domain).narrowed(side, 0)
        return self._with(alone=nn.ModuleList(alone))


class _Alone:
    """One domain's rows of the tables, as tables of one domain."""

    def __init__(self, tables: Entities, domain: int) -> None:
        self.tables, self.domain, self.users, self.ads = tables, domain, tables.users, tables.ads
        self.schema = replace(tables.schema, domains=(tables.schema.domains[domain],))

    def column(self, split: str, name: str) -> NDArray[Any]:
        own = np.asarray(self.tables.column(split, "domain")) == self.domain
        return np.zeros(own.sum(), dtype=np.int64) if name == "domain" else np.asarray(self.tables.column(split, name))[own]

    def user_block(self, rows: Rows, domain: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self.tables.user_block(rows, self.domain)

    def ad_block(self, rows: Rows, domain: int | Rows) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self.tables.ad_block(rows, self.domain)

    def eligible(self, domain: int) -> NDArray[np.int32]:
        return self.tables.eligible(self.domain)


CONFIG = TowerConfig(graph=GraphConfig(own_width=0))  # what is pooled of one domain is its own
_POOLED = ("pooled_graph", "no_convolution", "no_factors")  # their configurations have the pooled graph beside an own one
VARIANTS = {name: change for name, change in neural_towers.VARIANTS.items() if name not in _POOLED}
