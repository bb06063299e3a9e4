"""What trained models say about themselves, for a report: which features act, and how domains weigh them.

Rank movement (DSFM, arXiv 2405.12892, RQ3): features ranked by the mean |Integrated Gradients| of the logit, in the shared DNN
that found the sensitive ones, and in the model that remembers them. Adaptation weights (ADI, arXiv 2206.09672, Fig. 5): the mean
weight each domain gives to each field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.adi import ADI
from trainer.adi_layers import SqueezeExcitation, VanillaAttention
from trainer.attribution import Attributable, effects
from trainer.baselines.shared_dnn import SharedDNN
from trainer.dsfm import DSFM
from trainer.tables import Tables
from trainer.train import TrainedRanker, TrainedRetriever, found_by
from trainer.two_tower import Retriever, device_of

_ROWS = 20_000
_BATCH = 1_024
_ENTITIES = 2_000  # users, and ads, of a domain


def explain_ranker(trained: TrainedRanker, tables: Tables, seed: int, base: Path) -> dict[str, Any]:
    """attribution: of every feature, as trainer/attribution.py measures it; rank_movement: see below. Empty for a model without a
    memory of sensitive features."""
    if not trained.sensitive:
        return {}
    model, report = found_by(tables, seed, base)
    found: dict[str, Any] = {"attribution": [asdict(one) for one in report]}
    if isinstance(trained.model, DSFM):
        found["rank_movement"] = rank_movement(model, trained.model, tables, seed)
    return found


def explain_retriever(trained: TrainedRetriever, tables: Tables, seed: int) -> dict[str, Any]:
    weights = adaptation_weights(trained.model, tables, seed)
    return {"adaptation_weights": weights} if weights else {}


def rank_movement(base: SharedDNN, model: DSFM, tables: Tables, seed: int) -> dict[str, dict[str, int]]:
    """{feature: {"before", "after"}}: its rank, 1 the strongest, in the base and in the model, over the same training rows and
    the features that both read."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(tables.split_size("train"))[:_ROWS])
    names = [one for one in base.embedding.names if one in model.embedding.names]
    before, after = _ranks(base, tables, rows, names), _ranks(model, tables, rows, names)
    return {name: {"before": first, "after": last} for name, first, last in zip(names, before, after, strict=True)}


@torch.no_grad()
def adaptation_weights(model: Retriever, tables: Tables, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """{"user" or "ad": {domain: {field: mean weight}}} over users that were seen in the domain and ads that may be shown there.
    Empty where the adaptation has no weight a field."""
    if not isinstance(model, ADI):
        return {}
    model.eval()
    where, rng = device_of(model), np.random.default_rng(seed)
    found: dict[str, dict[str, dict[str, float]]] = {"user": {}, "ad": {}}
    for number, name in enumerate(tables.domains):
        seen = np.unique(tables.column("train", "user_row")[tables.domain_rows("train", number)])
        for side, tower, block, rows in (
            ("user", model.user_tower, tables.user_block, _some(seen, rng)),
            ("ad", model.ad_tower, tables.ad_block, _some(tables.eligible(number), rng)),
        ):
            adaptation = tower.adaptation
            if isinstance(adaptation, SqueezeExcitation | VanillaAttention) and len(rows):
                codes, dense = (torch.from_numpy(np.array(one)).to(where) for one in block(rows, number))
                tokens_BFE = model.embedding.block_tokens("user" if side == "user" else "ad", codes, dense)
                fields = model.embedding.block_fields("user" if side == "user" else "ad")
                mean_F = adaptation.weights(tokens_BFE, number).mean(dim=0).tolist()
                found[side][name] = dict(zip(fields, mean_F, strict=True))
    return {side: by_domain for side, by_domain in found.items() if by_domain}


def _ranks(model: Attributable, tables: Tables, rows: NDArray[np.int64], names: Sequence[str]) -> Sequence[int]:
    """In the order of `names`; 1 for the token of the largest mean |effect| among them."""
    model.eval()
    where = next(model.parameters()).device
    total_F: Any = 0.0
    for start in range(0, len(rows), _BATCH):
        batch = tables.batch("train", rows[start : start + _BATCH]).to(where)
        total_F = total_F + effects(model, batch.inputs).abs().sum(dim=0).cpu().numpy()
    order = np.argsort(-total_F[[model.embedding.names.index(one) for one in names]], kind="stable")
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return [int(one) for one in ranks]


def _some(rows: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.asarray(np.sort(rng.permutation(rows)[:_ENTITIES]), dtype=np.int64)
