"""Trees as tensors say what LightGBM says, and survive being kept."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.checkpoint import load_weights, save_weights
from trainer.trees import Trees, grown, walk

DOMAINS, LEAVES, DEPTH = 9, 12, 5


def columns(rows: int, seed: int) -> NDArray[np.float32]:
    """Two floats, a code, the domain."""
    rng = np.random.default_rng(seed)
    parts = (rng.standard_normal((rows, 2)), rng.integers(40, size=(rows, 1)), rng.integers(DOMAINS, size=(rows, 1)))
    return np.concatenate(parts, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    x = columns(4_000, 0)
    taste = np.random.default_rng(1).standard_normal(DOMAINS)[x[:, 3].astype(int)]
    label = x[:, 0] * taste + (x[:, 2] % 7 > 3) + 0.2 * x[:, 1] > 0.5
    parameters = {"objective": "binary", "num_leaves": LEAVES, "max_depth": DEPTH, "verbosity": -1, "use_missing": False}
    return lightgbm.train(parameters, lightgbm.Dataset(x, label, categorical_feature=[3]), 40)


def planted(booster: lightgbm.Booster) -> Trees:
    trees = Trees(DOMAINS)
    trees.plant(grown(booster.dump_model(), DOMAINS, 2 * LEAVES - 1))
    return trees


def walked(trees: Trees, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return walk(torch.from_numpy(x[:, :3]), torch.from_numpy(x[:, 3]).long(), trees, DEPTH).numpy()


def test_the_walk_is_the_librarys_prediction(booster: lightgbm.Booster) -> None:
    trees, x = planted(booster), columns(3_000, 2)
    assert len(trees) == 40
    assert max(int((one == 0).sum()) for one in trees.outside.T) > 1  # a split by a set of several domains
    np.testing.assert_allclose(walked(trees, x), booster.predict(x, raw_score=True), atol=1e-5)


def test_a_number_on_a_threshold_goes_the_same_way(booster: lightgbm.Booster) -> None:
    """Thresholds are doubles, columns float32: the nearest float32 of a threshold may stand on its other side."""
    trees = planted(booster)
    inner = torch.isfinite(trees.threshold) & (trees.column < 2)
    at = trees.threshold[inner].numpy()
    x = np.repeat(columns(1, 3), 3 * len(at), axis=0)
    near = np.concatenate([np.nextafter(at, np.float32(-9)), at, np.nextafter(at, np.float32(9))])
    for column in range(2):
        x[:, column] = near
        np.testing.assert_allclose(walked(trees, x), booster.predict(x, raw_score=True), atol=1e-5)


def test_kept_and_read_by_a_model_without_trees(booster: lightgbm.Booster, tmp_path: Path) -> None:
    trees, read = planted(booster), Trees(DOMAINS)
    save_weights(tmp_path / "trees.safetensors", trees.state_dict())
    load_weights(read, tmp_path / "trees.safetensors")
    x = columns(50, 4)
    assert len(read) == len(trees) and np.array_equal(walked(read, x), walked(trees, x))
    assert np.array_equal(walked(Trees(DOMAINS), x), np.zeros(50, np.float32))


def test_a_tree_of_one_leaf_is_a_constant() -> None:
    stump = {"tree_info": [{"tree_structure": {"leaf_value": 0.25}}], "max_feature_idx": 3}
    trees = Trees(DOMAINS)
    trees.plant(grown(stump, DOMAINS, 3))
    assert np.array_equal(walked(trees, columns(5, 5)), np.full(5, 0.25, np.float32))
