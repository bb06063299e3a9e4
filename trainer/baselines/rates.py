"""Smoothed click rates: the reference that learns no interaction at all, and that a model has to beat.

    logit = logit(rate_d) + [logit(rate of user) - logit(rate overall)] + [logit(rate of ad in d) - logit(rate_d)]

Each rate is shrunk towards what is known without it: (clicks + strength * prior) / (impressions + strength). The ad's rate in
a domain shrinks to the ad's own rate moved by the domain's, so a small domain borrows from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.schema import AD_ID, USER_ID, FeatureSchema
from trainer.fit import FitSettings
from trainer.layers import Inputs, Ranker
from trainer.tables import Tables

_CHUNK_ROWS = 50_000


@dataclass(frozen=True)
class RatesConfig:
    """Strengths of the priors, in impressions."""

    user_strength: float = 10.0
    ad_strength: float = 20.0


VARIANTS: dict[str, dict[str, Any]] = {}


class Rates(Ranker):
    """Counts by code, so that rare and unseen ids share what UNKNOWN has seen."""

    domain_D: Tensor
    user_U: Tensor
    ad_DA: Tensor

    def __init__(self, schema: FeatureSchema, config: RatesConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.config = config
        users, ads = schema.block("user").fields[0], schema.block("ad").fields[0]
        assert (users.name, ads.name) == (USER_ID, AD_ID)
        self.columns = users.start, ads.start
        self.register_buffer("domain_D", torch.zeros(len(schema.domains)))
        self.register_buffer("user_U", torch.zeros(users.cardinality))
        self.register_buffer("ad_DA", torch.zeros(len(schema.domains), ads.cardinality))

    def forward(self, inputs: Inputs) -> Tensor:
        user, ad = self.columns
        at_user, at_ad = inputs.user_codes[:, user].long(), inputs.ad_codes[:, ad].long()
        return self.domain_D[inputs.domain] + self.user_U[at_user] + self.ad_DA[inputs.domain, at_ad]

    def fit_whole(self, tables: Tables, settings: FitSettings) -> None:
        """Count the training events."""
        size = {"domain": len(self.domain_D), "user": len(self.user_U), "ad": self.ad_DA.numel()}
        clicks = {name: np.zeros(n) for name, n in size.items()}
        shown = {name: np.zeros(n) for name, n in size.items()}
        columns = {name: tables.column("train", name) for name in ("domain", "user_row", "ad_row", "label")}
        for start in range(0, tables.split_size("train"), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            rows = {name: np.asarray(columns[name][part], np.int64) for name in ("domain", "user_row", "ad_row")}
            label = columns["label"][part]
            user = tables.user_block(rows["user_row"], rows["domain"])[0][:, self.columns[0]]
            ad = tables.ad_block(rows["ad_row"], rows["domain"])[0][:, self.columns[1]]
            for name, at in (("domain", rows["domain"]), ("user", user), ("ad", rows["domain"] * self.ad_DA.shape[1] + ad)):
                shown[name] += np.bincount(at, minlength=size[name])
                clicks[name] += np.bincount(at, label, minlength=size[name])
        overall = (clicks["domain"].sum() + 1.0) / (shown["domain"].sum() + 2.0)
        strength = self.config.ad_strength
        domain = _shrunk(clicks["domain"], shown["domain"], overall, strength)
        rate_U = _shrunk(clicks["user"], shown["user"], overall, self.config.user_strength)
        clicks_DA, shown_DA = clicks["ad"].reshape(self.ad_DA.shape), shown["ad"].reshape(self.ad_DA.shape)
        expected_A = (domain[:, None] * shown_DA).sum(axis=0)
        # The ad's odds against what its domains would give any ad, learned over all domains.
        lift_A = _logit(_shrunk(clicks_DA.sum(axis=0), shown_DA.sum(axis=0), overall, strength))
        lift_A -= _logit(_shrunk(expected_A, shown_DA.sum(axis=0), overall, strength))
        prior_DA = 1.0 / (1.0 + np.exp(-(_logit(domain)[:, None] + lift_A)))
        rate_DA = _shrunk(clicks_DA, shown_DA, prior_DA, strength)
        self.domain_D.copy_(torch.from_numpy(_logit(domain)))
        self.user_U.copy_(torch.from_numpy(_logit(rate_U) - _logit(overall)))
        self.ad_DA.copy_(torch.from_numpy(_logit(rate_DA) - _logit(domain)[:, None]))


def _shrunk(clicks: NDArray[Any], shown: NDArray[Any], prior: Any, strength: float) -> NDArray[Any]:
    rate: NDArray[Any] = (clicks + strength * prior) / (shown + strength)
    return rate


def _logit(rate: Any) -> Any:
    return np.log(rate) - np.log1p(-rate)
