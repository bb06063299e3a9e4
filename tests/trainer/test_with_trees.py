"""A network and trees on the same rows: the mean of both logits, each fitted as it is alone, exported as one graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tables_world as world
import torch

from contracts.errors import BadInput
from trainer.checkpoint import WEIGHTS, load_weights
from trainer.export import export_ranker, ranker_difference
from trainer.fit import FitSettings, catch_up, fit_ranker
from trainer.recipes import known, ranker_plan
from trainer.tables import Tables
from trainer.with_trees import WithTrees

SETTINGS = FitSettings(epochs=1, batch_rows=256, learning_rate=0.01)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


def built(tables: Tables, name: str) -> WithTrees:
    plan = ranker_plan(name)
    torch.manual_seed(0)
    model = plan.build(tables.schema, plan.config, [])
    assert isinstance(model, WithTrees)
    return model


@pytest.mark.parametrize("name", ["shared_dnn:with_trees", "dfei:with_trees"])
def test_it_is_the_mean_of_both_and_one_graph(tables: Tables, tmp_path: Path, name: str) -> None:
    model = built(tables, name)
    report = fit_ranker(model, tables, SETTINGS, tmp_path / "both")
    assert len(model.trees.trees) and report.parameters == sum(one.numel() for one in model.network.parameters())
    inputs = model.serving_inputs(tables.batch("valid", np.arange(50)))
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), (model.network(inputs) + model.trees(inputs)) / 2)
    again = built(tables, name)
    again.prepare(tables)
    load_weights(again, tmp_path / "both" / WEIGHTS)
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), model(inputs))
    model.offset_D.copy_(torch.tensor([0.5, -1.0, 0.2]))
    export_ranker(model, tables.schema, tmp_path / "ranker.onnx")
    assert ranker_difference(model, tables.schema, tmp_path / "ranker.onnx", 64, seed=1) < 1e-5


def test_each_is_fitted_as_it_is_alone_and_both_take_in_the_held_out_days(tables: Tables, tmp_path: Path) -> None:
    model, alone = built(tables, "shared_dnn:with_trees"), ranker_plan("shared_dnn")
    fit_ranker(model, tables, SETTINGS, tmp_path / "both")
    torch.manual_seed(0)
    network = alone.build(tables.schema, alone.config, [])
    fit_ranker(network, tables, SETTINGS, tmp_path / "network")
    trees = ranker_plan("lightgbm").build(tables.schema, ranker_plan("lightgbm").config, [])
    fit_ranker(trees, tables, SETTINGS, tmp_path / "trees")
    for one, other in ((model.network, network), (model.trees, trees)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    catch_up(model, tables, "valid", replace(SETTINGS), tmp_path / "both")
    changed = [name for name, value in model.state_dict().items() if not torch.equal(before[name], value)]
    assert any(one.startswith("trees.") for one in changed) and any(one.startswith("network.") for one in changed)


def test_trees_beside_trees_are_refused() -> None:
    assert "dsfm_dfei:with_trees" in known() and "lightgbm:with_trees" not in known()
    with pytest.raises(BadInput, match="with_trees"):
        ranker_plan("lightgbm:with_trees")
