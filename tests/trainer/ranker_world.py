"""A tiny world for rankers: every kind of feature, and a click law that differs by domain. Also the export round trip."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from contracts.ids import IdTable
from contracts.schema import FIRST, FeatureSchema, FeatureSpec, Numeric
from trainer.export import export_ranker
from trainer.layers import Inputs, Ranker

USERS, ADS, LEVELS, LENGTH = 12, 8, 4, 5


class Batch(NamedTuple):
    inputs: Inputs
    label: Tensor
    user_row: Tensor
    ad_row: Tensor


def schema(domains: int = 3) -> FeatureSchema:
    """user: user_id, taste, age (dense), seen (a sequence of ad_id); ad: ad_id, style (what decides), price
    (binned); context: hour."""
    features = (
        FeatureSpec(name="user_id", side="user", kind="categorical"),
        FeatureSpec(name="ad_id", side="ad", kind="categorical"),
        FeatureSpec(name="taste", side="user", kind="categorical"),
        FeatureSpec(name="age", side="user", kind="numeric", encoding="standardise"),
        FeatureSpec(name="seen", side="user", kind="sequence", of="ad_id", max_length=LENGTH),
        FeatureSpec(name="style", side="ad", kind="categorical"),
        FeatureSpec(name="price", side="ad", kind="numeric"),
        FeatureSpec(name="hour", side="context", kind="categorical"),
    )
    sizes = {"user_id": USERS, "ad_id": ADS, "taste": LEVELS, "style": LEVELS, "hour": 3}
    vocabularies = {name: IdTable(f"{name}{i}" for i in range(size)) for name, size in sizes.items()}
    numerics = {"age": Numeric(mean=0.0, deviation=1.0), "price": Numeric(edges=(0.0, 1.0))}
    return FeatureSchema(features, tuple(f"d{i}" for i in range(domains)), vocabularies, numerics)


def batch(rows: int, domains: int = 3, seed: int = 0, domain: int | None = None) -> Batch:
    """A click iff (style + domain) mod LEVELS < 2: no domain-blind scorer can know it. Columns follow `schema`: user codes
    user_id, taste, seen x LENGTH."""
    rng = np.random.default_rng(seed)
    user, ad = rng.integers(USERS, size=rows), rng.integers(ADS, size=rows)
    taste, style = rng.integers(LEVELS, size=rows), rng.integers(LEVELS, size=rows)
    where = rng.integers(domains, size=rows) if domain is None else np.full(rows, domain)
    label = (style + where) % LEVELS < 2
    seen = np.where(
        np.arange(LENGTH) < rng.integers(LENGTH + 1, size=(rows, 1)), rng.integers(ADS, size=(rows, LENGTH)) + FIRST, 0
    )
    inputs = Inputs(
        user_codes=_int(np.column_stack([user + FIRST, taste + FIRST, seen])),
        user_dense=torch.tensor(rng.standard_normal((rows, 1)), dtype=torch.float32),
        context_codes=_int(rng.integers(3, size=(rows, 1)) + FIRST),
        context_dense=torch.zeros(rows, 0),
        ad_codes=_int(np.column_stack([ad + FIRST, style + FIRST, rng.integers(3, size=rows) + FIRST])),
        ad_dense=torch.zeros(rows, 0),
        domain=torch.tensor(where, dtype=torch.int64),
    )
    return Batch(inputs, torch.tensor(label, dtype=torch.float32), torch.tensor(user), torch.tensor(ad))


def one_request(many: Inputs, user_vectors: Tensor | None = None) -> Inputs:
    """The candidates of `many` for the user, context and domain of its first row, as a server asks."""
    first = {name: getattr(many, name)[:1] for name in Inputs._fields if not name.startswith("ad_") and name != "user_vectors"}
    return Inputs(ad_codes=many.ad_codes, ad_dense=many.ad_dense, user_vectors=user_vectors, **first)


def export(ranker: Ranker, path: Path) -> onnxruntime.InferenceSession:
    """The graph that is published: one user, any number of candidates, probabilities out."""
    export_ranker(ranker, schema(), path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, request: Inputs) -> np.ndarray:
    wanted = {one.name for one in session.get_inputs()}
    return session.run(None, {name: one.numpy() for name, one in request._asdict().items() if name in wanted})[0]


def _int(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)
