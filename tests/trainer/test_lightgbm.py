"""LightGBM among the rankers: what it reads, when it stops, what it takes in later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranker_world
import tables_world as world
import torch

from trainer import export
from trainer.baselines.lightgbm import LightGBM, LightGBMConfig
from trainer.baselines.rates import Rates, RatesConfig
from trainer.checkpoint import WEIGHTS, load_weights
from trainer.fit import FitSettings, catch_up, fit_ranker
from trainer.scoring import mean_auc, score_split
from trainer.tables import Tables

CONFIG = LightGBMConfig(leaves=8, depth=5, most_rounds=60, patience=10, learning_rate=0.2, rows_per_leaf=20)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


def fitted(tables: Tables, directory: Path, config: LightGBMConfig = CONFIG, seed: int = 0) -> LightGBM:
    model = LightGBM(tables.schema, config)
    fit_ranker(model, tables, FitSettings(seed=seed), directory)
    return model


def test_it_beats_rates_and_stops_before_the_end(tables: Tables, tmp_path: Path) -> None:
    model, rates = fitted(tables, tmp_path / "trees"), Rates(tables.schema, RatesConfig())
    fit_ranker(rates, tables, FitSettings(), tmp_path / "rates")
    found, known = mean_auc(model, tables, "test"), mean_auc(rates, tables, "test")
    assert found is not None and known is not None and found > known + 0.03
    assert 0 < len(model.trees) < CONFIG.most_rounds


def test_the_seed_decides_and_weights_are_all_there_is(tables: Tables, tmp_path: Path) -> None:
    model = fitted(tables, tmp_path / "a")
    fitted(tables, tmp_path / "b")
    fitted(tables, tmp_path / "c", seed=1)
    a, b, c = ((tmp_path / one / WEIGHTS).read_bytes() for one in "abc")
    assert a == b != c
    read = LightGBM(tables.schema, CONFIG)
    load_weights(read, tmp_path / "a" / WEIGHTS)
    assert np.array_equal(score_split(read, tables, "test").logit, score_split(model, tables, "test").logit)


def test_catching_up_grows_as_many_trees_on_more_days(tables: Tables, tmp_path: Path) -> None:
    model = fitted(tables, tmp_path)
    trees, before = len(model.trees), (tmp_path / WEIGHTS).read_bytes()
    seen: list[int] = []
    matrix = model._matrix
    model._matrix = lambda given, split, settings: seen.append(given.split_size(split)) or matrix(given, split, settings)  # type: ignore
    catch_up(model, tables, "valid", FitSettings(), tmp_path)
    assert seen == [tables.split_size("train") + tables.split_size("valid")]
    assert len(model.trees) == trees and (tmp_path / WEIGHTS).read_bytes() != before


def test_a_log_beyond_the_bound_is_sampled_and_it_says_so(
    tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fitted(tables, tmp_path, replace(CONFIG, rows=300))
    columns, label = model._matrix(tables, "train", FitSettings())
    assert len(columns) == len(label) == 300 and set(columns[:, -1]) == {0.0, 1.0, 2.0}  # of every domain
    assert "reads 300 of" in capsys.readouterr().err


def test_positives_only_data_get_negatives(tmp_path: Path) -> None:
    clicks = world.positives_only(tmp_path)
    model = fitted(clicks, tmp_path / "model")
    _, label = model._matrix(clicks, "train", FitSettings(negatives=4))
    assert label.mean() == pytest.approx(0.2)
    assert len(model.trees) and np.isfinite(score_split(model, clicks, "valid").logit).all()


def test_columns_of_a_sequence_are_its_length_and_the_ads_place_in_it() -> None:
    model = LightGBM(ranker_world.schema(), CONFIG)
    inputs = ranker_world.batch(200, seed=1).inputs
    found = model._columns(inputs)[:, -2:]
    seen, ad = inputs.user_codes[:, 2:], inputs.ad_codes[:, :1]
    assert torch.equal(found, torch.stack([(seen > 0).sum(1), (seen == ad).sum(1)], dim=1).float()) and found[:, 1].max() > 0
    unknown = inputs._replace(user_codes=torch.ones_like(inputs.user_codes), ad_codes=torch.ones_like(inputs.ad_codes))
    assert not model._columns(unknown)[:, -1].any()  # two unknown ads are not the same ad


def test_the_exported_graph_holds_the_trees(tables: Tables, tmp_path: Path) -> None:
    model, path = fitted(tables, tmp_path), tmp_path / "ranker.onnx"
    export.export_ranker(model, tables.schema, path)
    assert b"TreeEnsembleRegressor" in path.read_bytes()
    assert export.ranker_difference(model, tables.schema, path, 2_000, seed=1) < 1e-5
