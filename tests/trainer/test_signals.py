"""Signals: what the graph says of a pair without having been told of it, and the same in a crowd, alone and as a graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import ranker_world
import tables_world
import torch

from contracts.errors import BadInput
from contracts.schema import FIRST, PAD
from trainer import propagation
from trainer.checkpoint import WEIGHTS, load_weights
from trainer.export import export_ranker, ranker_difference
from trainer.fit import FitSettings, catch_up, fit_ranker
from trainer.graph import id_fields, interactions
from trainer.layers import Inputs
from trainer.propagation import propagated_rows
from trainer.scoring import mean_auc
from trainer.signals import Signals, SignalsConfig
from trainer.spectral import history_columns
from trainer.tables import Tables
from trainer.withheld import Withheld

USERS, ADS, TASTES = 240, 48, 4
CONFIG = SignalsConfig(deep_width=12, pooled_width=8, shallow_width=4, own_width=6, propagated_width=8, drawn=8, batch_events=16)
SETTINGS = FitSettings(epochs=20, learning_rate=0.01)


def clicks(directory: Path) -> Tables:
    """User u takes ads of its taste u mod 4, whose popularity says nothing of it, in two domains; split at random."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"a{TASTES * kind + user % TASTES}", ("feed", "story")[kind % 2])
        for user in range(USERS)
        for kind in rng.permutation(ADS // TASTES)[:7]
    ]
    frame = pl.DataFrame(rows, schema=["uid", "item", "tab"], orient="row")
    dataset = tables_world.write(
        directory / "data", {"events": frame}, features=[], label=None, timestamp=None, positives_only=True
    )
    return Tables.build(dataset, directory / "tables")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return clicks(tmp_path_factory.mktemp("clicks"))


@pytest.fixture(scope="module")
def model(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Signals:
    return fitted(tables, tmp_path_factory.mktemp("signals"))


def fitted(tables: Tables, directory: Path, seed: int = 0) -> Signals:
    torch.manual_seed(seed)
    model = Signals(tables.schema, CONFIG)
    fit_ranker(model, tables, replace(SETTINGS, seed=seed), directory)
    return model


def asked(tables: Tables, rows: int = 60, seed: int = 0) -> Inputs:
    """Pairs of any user and any ad, the ad in the history of some."""
    rng = np.random.default_rng(seed)
    domain = rng.integers(len(tables.domains), size=rows)
    user = tables.user_block(rng.integers(len(tables.users), size=rows), domain)
    ad = tables.ad_block(rng.integers(len(tables.ads), size=rows), domain)
    nothing = np.zeros((rows, 0), np.int32), np.zeros((rows, 0), np.float32)
    return Inputs(*(torch.from_numpy(np.array(one)) for one in (*user, *nothing, *ad, domain)))


def part(inputs: Inputs, rows: Any) -> Inputs:
    return Inputs(*(None if one is None else one[rows] for one in inputs))


def test_it_ranks_pairs_it_has_not_seen(tables: Tables, model: Signals) -> None:
    found = mean_auc(model, tables, "test")
    assert found is not None and found > 0.85  # popularity alone: .5


def test_a_signal_is_what_it_is_called(tables: Tables, model: Signals) -> None:
    inputs = asked(tables)
    with torch.no_grad():
        found = model.signals(inputs).numpy()
    history = inputs.user_codes[:, model.history].numpy()
    rows = model.pooled_AK.numpy()
    norm = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-4)
    for row, (past, code) in enumerate(zip(history, inputs.ad_codes[:, model.ad_id_column].numpy(), strict=True)):
        past = past[(past != PAD) & (past != code)]
        cosine = (rows / norm)[past] @ (rows / norm)[code]
        total = rows[past].sum(axis=0)
        assert found[row, 4 - 1] != 0.0 and found[row, 0] == model.log_count_F3[inputs.domain[row] * model.ads + code, 0]
        whole = total @ rows[code] / max(np.linalg.norm(total) * np.linalg.norm(rows[code]), 1e-8)
        assert found[row, 9] == pytest.approx(whole, abs=1e-4)
        assert found[row, 11] == pytest.approx(cosine.max(initial=-1.0), abs=1e-4)
        assert found[row, 12] == pytest.approx(np.log(np.exp(cosine / 0.1).sum() + 1e-3), abs=1e-3)


def test_alone_in_a_crowd_and_with_one_user_for_all(tables: Tables, model: Signals) -> None:
    inputs = asked(tables)
    with torch.no_grad():
        crowd = model(inputs)
        alone = torch.cat([model(part(inputs, slice(row, row + 1))) for row in range(60)])
        torch.testing.assert_close(crowd, alone, atol=1e-4, rtol=1e-4)
        one = part(inputs, slice(0, 1))._replace(ad_codes=inputs.ad_codes, ad_dense=inputs.ad_dense)
        repeated = Inputs(*(None if each is None else each.expand(60, *each.shape[1:]) for each in one))
        torch.testing.assert_close(model(one), model(repeated), atol=1e-4, rtol=1e-4)


def test_an_ad_of_the_history_is_looked_at_without_its_own_place(tables: Tables, model: Signals) -> None:
    inputs = part(asked(tables), slice(0, 1))
    codes = inputs.user_codes.clone()
    taken = codes[:, model.history][0, 0].item()
    inputs = inputs._replace(ad_codes=torch.full_like(inputs.ad_codes, taken))
    codes[:, model.history] = torch.where(codes[:, model.history] == taken, PAD, codes[:, model.history])
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), model(inputs._replace(user_codes=codes)), atol=1e-4, rtol=1e-4)


def test_exported_graph_agrees(tables: Tables, model: Signals, tmp_path: Path) -> None:
    path = tmp_path / "ranker.onnx"
    export_ranker(model, tables.schema, path)
    assert ranker_difference(model, tables.schema, path, rows=600, seed=1) < 1e-5


def test_the_seed_decides_and_weights_are_all_there_is(tables: Tables, model: Signals, tmp_path: Path) -> None:
    again, other = fitted(tables, tmp_path / "a"), fitted(tables, tmp_path / "b", seed=1)
    read = Signals(tables.schema, CONFIG)
    load_weights(read, tmp_path / "a" / WEIGHTS)
    read.eval()
    inputs = asked(tables)
    with torch.no_grad():
        assert torch.equal(model(inputs), again(inputs)) and torch.equal(model(inputs), read(inputs))
        assert not torch.equal(model(inputs), other(inputs))


def test_catching_up_takes_the_graph_of_more_days(tables: Tables, tmp_path: Path) -> None:
    model = fitted(tables, tmp_path)
    before = model.log_count_F3.exp().sum(dim=0)[0].item()
    catch_up(model, tables, "valid", SETTINGS, tmp_path)
    gained = model.log_count_F3.exp().sum(dim=0)[0].item() - before
    assert gained == pytest.approx(tables.split_size("valid"), rel=0.05)


def test_withheld_pairs_are_nowhere(tables: Tables) -> None:
    history = history_columns(tables.schema)
    assert history is not None
    known = Withheld(tables, 0.3, history, seed=0)
    users, ads = (np.asarray(tables.column("train", name))[known.rows] for name in ("user_row", "ad_row"))
    assert 0.2 < len(known.rows) / tables.split_size("train") < 0.4
    user, ad = id_fields(tables.schema)
    user_code = tables.user_block(users, 0)[0][:, user.start]
    ad_code = tables.ad_block(ads, 0)[0][:, ad.start]
    sure = (user_code >= FIRST) & (ad_code >= FIRST)
    assert interactions(tables)[user_code[sure], ad_code[sure]].min() == 1.0
    assert not interactions(known)[user_code[sure], ad_code[sure]].any()  # type: ignore[arg-type]
    past, whole = known.user_block(users, 0)[0][:, history], tables.user_block(users, 0)[0][:, history]
    assert (whole[sure] == ad_code[sure, None]).any(axis=1).all() and not (past == ad_code[:, None]).any()
    kept = len(known.column("train", "label"))
    assert kept + len(known.rows) == tables.split_size("train") and (past != PAD).sum() > 0


def test_propagation_brings_ads_of_one_taste_together(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "_STEPS", 25)
    past, rows = propagated_rows(tables, 8)
    code = tables.ad_block(np.arange(len(tables.ads)), 0)[0][:, 0]
    taste = np.array([int(one[1:]) % TASTES for one in tables.ads])
    known = code >= FIRST
    unit = rows[code[known]] / np.linalg.norm(rows[code[known]], axis=1, keepdims=True)
    same = taste[known][:, None] == taste[known]
    cosine = unit @ unit.T
    assert cosine[same].mean() > cosine[~same].mean() + 0.3
    degree = np.asarray(interactions(tables).sum(axis=0))
    np.testing.assert_allclose(past, rows * np.maximum(degree, 1.0)[:, None] ** -0.5, rtol=1e-5)
    assert not rows[degree == 0].any()


def test_logged_impressions_are_learned_as_they_are(tmp_path: Path) -> None:
    tables = tables_world.build(tmp_path)
    model = Signals(tables.schema, CONFIG)
    fit_ranker(model, tables, FitSettings(epochs=3, learning_rate=0.01), tmp_path / "model")
    found = mean_auc(model, tables, "test")
    assert found is not None and found > 0.6


def test_without_a_history_it_is_refused() -> None:
    schema = ranker_world.schema()
    without = replace(schema, features=tuple(one for one in schema.features if one.kind != "sequence"))
    with pytest.raises(BadInput, match="history"):
        Signals(without, CONFIG)
