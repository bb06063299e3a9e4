"""The retriever between layers, read by a polynomial or exactly: the equation in float64, on mild and on hostile weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fused_world as world
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.architecture import Architecture
from indexer import compiler
from server.fused.chain import TOLERANCE, fused
from server.fused.weights import Weights

LANES, STEEPEST = 7, 30.0


def weights(rng: np.random.Generator, steep: float, far: float) -> Weights:
    shapes = {"query": (LANES, 1), "key": (LANES, 1), "value": (LANES, 1), "output": (1, LANES), "widen": (LANES, 1)}
    arrays = {f"r.{name}.weight": rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["r.query.weight"] *= np.float32(steep)
    arrays["r.value.weight"] *= np.float32(far)
    arrays["r.narrow.weight"] = 0.3 * rng.standard_normal((1, LANES)).astype(np.float32)
    arrays["r.widen.bias"], arrays["r.narrow.bias"] = (rng.standard_normal(n).astype(np.float32) for n in (LANES, 1))
    nothing: Any = {"kind": "dsfm", "domains": 1, "blocks": {}, "domain_token": False}
    return Weights(Architecture(**nothing), arrays)


def expected(of: Weights, z_CH: np.ndarray, unit_CH: np.ndarray) -> np.ndarray:
    a = {name.removeprefix("r."): one.astype(np.float64) for name, one in of.arrays.items()}

    def phi(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + np.exp(np.minimum(x, 0))

    query, key = (phi(x[:, :, None] * a[f"{n}.weight"][:, 0]) for x, n in ((z_CH, "query"), (unit_CH, "key")))
    weight = query @ key.transpose(0, 2, 1)
    read = (weight @ unit_CH[:, :, None])[:, :, 0] * float((a["output.weight"] @ a["value.weight"])[0, 0])
    found = z_CH + read / weight.sum(axis=2)
    wide = np.maximum(found[:, :, None] * a["widen.weight"][:, 0] + a["widen.bias"], 0)
    return found + wide @ a["narrow.weight"][0] + a["narrow.bias"]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steep=st.floats(0.01, STEEPEST),
    span=st.floats(0.01, 30.0),
    far=st.floats(0.0, 3.0),
    memories=st.sampled_from([1, 2, 9]),
    own_bias=st.booleans(),
)
@example(seed=0, steep=STEEPEST, span=30.0, far=1.0, memories=9, own_bias=True)
@example(seed=1, steep=0.3, span=3.0, far=0.0, memories=1, own_bias=False)
def test_what_is_read_is_the_equation(seed: int, steep: float, span: float, far: float, memories: int, own_bias: bool) -> None:
    compiler.configure(None)
    from server.fused.hidden import HiddenRetriever

    rng = np.random.default_rng(seed)
    of = weights(rng, steep, far)
    unit_RH = np.maximum(span * rng.standard_normal((memories, 33)), 0).astype(np.float32)
    x_CH = (span * rng.standard_normal((120, 33))).astype(np.float32)
    bias_RH = rng.standard_normal((memories if own_bias else 1, 33)).astype(np.float32)
    which_C = rng.integers(0, memories, 120)
    z_CH = np.maximum(x_CH + (bias_RH[which_C] if own_bias else bias_RH), 0).astype(np.float64)
    found = HiddenRetriever(of, "r").remember(unit_RH).read(x_CH, bias_RH, which_C)
    right = expected(of, z_CH, unit_RH[which_C].astype(np.float64))
    assert np.abs(found - right).max() <= 4e-6 * (1 + np.abs(right).max())


@pytest.mark.parametrize(("steep", "span", "exact"), [(0.3, 3.0, False), (3.0, 10.0, False), (1e4, 30.0, True)])
def test_every_unit_is_read_exactly_where_a_polynomial_is_too_coarse(
    steep: float, span: float, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.configure(None)
    from server.fused import hidden_kernels as kernels
    from server.fused.hidden import HiddenRetriever

    taken = []
    for name in ("read_hidden", "read_smooth"):
        read = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *given, name=name, read=read: (taken.append(name), read(*given)))
    rng = np.random.default_rng(0)
    memory = HiddenRetriever(weights(rng, steep, 1.0), "r").remember(np.abs(rng.standard_normal((3, 33))).astype(np.float32))
    for damage in (0.0, np.nan, np.inf):
        x_CH, bias_RH = (span * rng.standard_normal((rows, 33)).astype(np.float32) for rows in (40, 1))
        x_CH[1, 1] += np.float32(damage)
        memory.read(x_CH, bias_RH, np.zeros(40, np.int64))
    memory.read(np.ones((4, 33), np.float32), bias_RH, np.zeros(4, np.int64))  # fewer than a polynomial is worth
    assert taken == ["read_hidden" if exact else "read_smooth", *["read_hidden"] * 3]


@pytest.mark.parametrize("sensitive", [world.USERS_ONLY, world.MIXED], ids=["users", "mixed"])
@pytest.mark.parametrize("times", [0.1, 4.0, 16.0])
def test_hostile_weights_agree_with_the_graph(times: float, sensitive: tuple[str, ...], tmp_path: Path) -> None:
    model = world.ranker("dsfm", sensitive)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "hidden_retrievers" in name and ("query" in name or "key" in name or "widen" in name):
                value.mul_(times)
    graph = world.write(model, tmp_path)
    for seed in range(3):
        feeds = world.feeds(model, 200, seed)
        assert np.abs(fused(graph.path, None).run(feeds) - graph.run(feeds)).max() < TOLERANCE
