"""A tiny rotating checkerboard as retrievers read it: user u takes ad a in domain d iff (u + d) mod 4 = a mod 4.

Only the domain tells which quarter of the ads is right, so a domain-blind retriever finds a quarter of them, and any
crossed routing none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.ids import IdTable
from contracts.schema import FIRST, FeatureSchema, FeatureSpec
from trainer.history import HISTORY, HISTORY_SPEC, history_from_positives
from trainer.two_tower import TwoTower

USERS, ADS, DOMAINS = 24, 32, 4
PER_USER = ADS // DOMAINS


class World:
    """What a Sampler reads of Tables. withheld: pairs left out of training; every ad is eligible everywhere unless `eligible_ads`
    says otherwise."""

    def __init__(self, history: bool = False, withheld: float = 0.15, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        user, ad, domain = (one.ravel() for one in np.meshgrid(range(USERS), range(ADS), range(DOMAINS), indexing="ij"))
        true = (user + domain) % DOMAINS == ad % DOMAINS
        self.truth = np.column_stack([user, ad, domain])[true]
        rows = self.truth[rng.random(len(self.truth)) >= withheld]
        self.columns: dict[str, NDArray[Any]] = dict(zip(("user_row", "ad_row", "domain"), rows.T, strict=True))
        self.columns["label"] = np.ones(len(rows), dtype=np.float32)
        self.users = IdTable(f"u{row}" for row in range(USERS))
        self.ads = IdTable(f"a{row}" for row in range(ADS))
        sequence = [HISTORY_SPEC.model_copy(update={"max_length": 12})] if history else []
        features = (
            FeatureSpec(name="user_id", side="user", kind="categorical"),
            FeatureSpec(name="ad_id", side="ad", kind="categorical"),
            FeatureSpec(name="age", side="user", kind="numeric", encoding="standardise"),
            *sequence,
        )
        vocabularies = {"user_id": self.users, "ad_id": self.ads}
        self.schema = FeatureSchema(features, tuple(f"d{d}" for d in range(DOMAINS)), vocabularies, {})
        self.user_codes = np.arange(USERS, dtype=np.int32)[:, None] + FIRST
        self.user_dense = rng.standard_normal((USERS, 1)).astype(np.float32)
        if history:
            past = history_from_positives(rows[:, 0], rows[:, 1] + FIRST, USERS, max_length=12)
            self.user_codes = np.concatenate([self.user_codes, past], axis=1)
        self.eligible_ads = [np.arange(ADS, dtype=np.int32) for _ in range(DOMAINS)]

    def column(self, split: str, name: str) -> NDArray[Any]:
        assert split == "train"
        return self.columns[name]

    def user_block(self, rows: NDArray[np.int64], domain: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self.user_codes[rows], self.user_dense[rows]

    def ad_block(self, rows: NDArray[np.int64], domain: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return (np.asarray(rows, dtype=np.int32) + FIRST)[:, None], np.zeros((len(rows), 0), dtype=np.float32)

    def eligible(self, domain: int) -> NDArray[np.int32]:
        return self.eligible_ads[domain]

    def history_columns(self) -> slice:
        return next(one.columns for one in self.schema.block("user").fields if one.name == HISTORY)


@torch.no_grad()
def recall(model: TwoTower, world: World, crossed: int = 0) -> float:
    """Share of the true ads among the top PER_USER, mean over users and domains; crossed: d + crossed against d's truth."""
    model.eval()
    found = []
    for domain in range(DOMAINS):
        scored = (domain + crossed) % DOMAINS
        user_BE = model.user_embedding(*blocks(world.user_block(np.arange(USERS), scored)), scored)
        ad_AE = model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), scored)), scored)
        top = torch.topk(user_BE @ ad_AE.T, PER_USER, dim=1).indices.numpy()
        found.append(((np.arange(USERS)[:, None] + domain) % DOMAINS == top % DOMAINS).mean())
    return float(np.mean(found))


def blocks(arrays: tuple[NDArray[np.int32], NDArray[np.float32]]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(one)) for one in arrays]
