"""Rankers with weights that matter, exported as a bundle holds them, on every kind of feature; a golden batch beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from contracts.ids import IdTable
from contracts.schema import FeatureSchema, FeatureSpec, Numeric
from server.golden import GOLDEN
from server.inference import Graph
from trainer import export
from trainer.layers import Ranker
from trainer.rankers import RANKERS
from trainer.recipes import ranker_plan

USERS_ONLY, MIXED, ADS_ONLY = ("taste", "hour", "seen"), ("taste", "style", "rating", "hour"), ("ad_id", "price")
Feeds = dict[str, np.ndarray]


def schema(domains: int = 3) -> FeatureSchema:
    features = (
        FeatureSpec(name="user_id", side="user", kind="categorical"),
        FeatureSpec(name="ad_id", side="ad", kind="categorical"),
        FeatureSpec(name="taste", side="user", kind="categorical"),
        FeatureSpec(name="age", side="user", kind="numeric", encoding="standardise"),
        FeatureSpec(name="seen", side="user", kind="sequence", of="ad_id", max_length=4),
        FeatureSpec(name="visits", side="user_domain", kind="numeric"),
        FeatureSpec(name="style", side="ad", kind="categorical"),
        FeatureSpec(name="rating", side="ad", kind="numeric", encoding="standardise"),
        FeatureSpec(name="price", side="ad", kind="numeric"),
        FeatureSpec(name="hour", side="context", kind="categorical"),
        FeatureSpec(name="heat", side="context", kind="numeric", encoding="standardise"),
    )
    sizes = {"user_id": 12, "ad_id": 30, "taste": 4, "style": 5, "hour": 3}
    vocabularies = {name: IdTable(f"{name}{i}" for i in range(size)) for name, size in sizes.items()}
    scales = {name: Numeric(mean=0.0, deviation=1.0) for name in ("age", "rating", "heat")}
    return FeatureSchema(
        features,
        tuple(f"d{i}" for i in range(domains)),
        vocabularies,
        {**scales, "visits": Numeric(edges=(1.0,)), "price": Numeric(edges=(0.0, 1.0))},
    )


def ranker(name: str, sensitive: Sequence[str] = MIXED, seed: int = 0) -> Ranker:
    """`name` as recipes spell it, its variants too. Weights are large, so that p_click is spread over (0, 1)."""
    torch.manual_seed(seed)
    plan = ranker_plan(name)
    model = plan.build(schema(), plan.config, list(sensitive))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                spread = 0.3 if value.dim() < 2 or min(value.shape) == 1 else 1.0 / value.shape[1] ** 0.5
                value.normal_(0.0, spread)
    return model.eval()


def write(model: Ranker, directory: Path) -> Graph:
    """ranker.onnx and its golden batch; the graph as the gateway opens it."""
    path = directory / "ranker.onnx"
    export.export_ranker(model, schema(), path)
    golden = feeds(model, 8, 0)
    arrays = {f"ranker/in/{name}": one for name, one in golden.items()} | {"ranker/out/p_click": export.run(path, golden)}
    np.savez(directory / GOLDEN, **arrays)
    return Graph(path, list(golden), "p_click", "cpu")


def feeds(model: Ranker, count: int, seed: int) -> Feeds:
    """One request; codes of missing (0) and unknown (1) values among the others."""
    rng = np.random.default_rng(seed)
    return export.random_feeds(schema(), export.ranker_inputs(schema(), model), model, count, rng)


def names() -> list[str]:
    return list(RANKERS)
