"""Offsets solve what they are defined by, touch nothing else, and stay with the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tables_world as world
import torch
from scipy.special import expit

from trainer import calibration
from trainer.baselines.rates import Rates, RatesConfig
from trainer.baselines.shared_dnn import SharedDNN, SharedDNNConfig
from trainer.calibration import calibrate, offsets
from trainer.checkpoint import WEIGHTS, load_weights
from trainer.dfei import DFEI, DFEIConfig
from trainer.fit import FitSettings, catch_up, fit_ranker
from trainer.layers import Ranker
from trainer.metrics import auc
from trainer.scoring import score_split
from trainer.tables import Tables

SETTINGS = FitSettings(epochs=1, batch_rows=256, learning_rate=0.01)
SEEN = ("train", "valid")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


def dnn(tables: Tables) -> SharedDNN:
    torch.manual_seed(0)
    return SharedDNN(tables.schema, SharedDNNConfig(dim=4, hidden=(8,)))


def likelihood(label: np.ndarray, logit: np.ndarray, weight: np.ndarray, offset: float, strength: float) -> float:
    each = label * (logit + offset) - np.logaddexp(0.0, logit + offset)
    return float((weight * each).sum() - 0.5 * strength * offset**2)


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_offsets_are_the_mode_and_nothing_is_none(scale: float) -> None:
    rng = np.random.default_rng(0)
    domain = rng.choice(4, 4_000, p=[0.6, 0.39, 0.01, 0.0])
    logit, weight = scale * rng.standard_normal(4_000) + 2.0, rng.random(4_000)
    label = (rng.random(4_000) < expit(logit - np.array([1.0, -0.5, 3.0, 0.0])[domain])).astype(np.float32)
    found = offsets(label, logit, domain, weight, 4, strength=5.0)
    assert found[3] == 0.0
    for one in range(3):
        rows = domain == one
        best = likelihood(label[rows], logit[rows], weight[rows], found[one], 5.0)
        assert all(best > likelihood(label[rows], logit[rows], weight[rows], found[one] + step, 5.0) for step in (-1e-2, 1e-2))
    np.testing.assert_allclose(offsets(label, logit, domain, weight, 4, strength=1e9), 0.0, atol=1e-4)


def test_few_rows_move_less_than_many() -> None:
    """Ten rows in a hundred clicked where half were predicted."""
    label = np.tile([1.0] + [0.0] * 9, 202)
    domain = np.repeat([0, 1], [20, 2_000])
    few, many = offsets(label, np.zeros(2_020), domain, np.ones(2_020), 2, strength=20.0)
    assert many < few < 0 and few > 0.3 * many and many == pytest.approx(np.log(1 / 9), abs=0.25)


@pytest.mark.parametrize("name", ["dnn", "dfei", "rates"])
def test_offsets_are_all_that_changes(name: str, tables: Tables, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built: dict[str, Ranker] = {"dnn": dnn(tables), "rates": Rates(tables.schema, RatesConfig())}
    built["dfei"] = DFEI(tables.schema, DFEIConfig(dim=4, hidden=(8, 6), dropout=(0.0, 0.0)))
    model = built[name]
    fit_ranker(model, tables, SETTINGS, tmp_path)
    assert not model.offset_D.any()
    plain = score_split(model, tables, "valid")
    batch = tables.batch("valid", np.arange(100))
    weights = {key: value.clone() for key, value in model.state_dict().items() if key != "offset_D"}
    with torch.no_grad():
        logit = model(model.serving_inputs(batch))
    model.offset_D.fill_(3.0)  # what stood there before does not matter
    calibrate(model, tables.at("valid"), SEEN)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
    with torch.no_grad():
        assert torch.equal(model(model.serving_inputs(batch)), logit)
    found = score_split(model, tables, "valid")
    np.testing.assert_allclose(found.logit, plain.logit + model.offset_D.numpy()[plain.domain], atol=1e-6)
    for domain in range(3):
        rows = found.domain == domain
        assert auc(found.label[rows], found.logit[rows]) == pytest.approx(auc(plain.label[rows], plain.logit[rows]), abs=1e-3)


def test_the_latest_rows_decide(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a handful of rows a domain, all of them from the end of the held-out day."""
    monkeypatch.setattr(calibration, "_DOMAIN_ROWS", 30)
    latest = calibration._latest(tables, SEEN)
    assert len(latest["train"]) == 0 and len(latest["valid"]) == 90
    for domain in range(3):
        own = tables.domain_rows("valid", domain)
        time = tables.column("valid", "time")
        taken = latest["valid"][np.isin(latest["valid"], own)]
        assert len(taken) == 30 and time[taken].min() >= np.sort(time[own])[-30]
    monkeypatch.setattr(calibration, "_DOMAIN_ROWS", 10**6)
    assert {split: len(rows) for split, rows in calibration._latest(tables, SEEN).items()} == {
        split: tables.split_size(split) for split in SEEN
    }


def test_what_a_fresh_model_says_is_moved_to_the_click_rate(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "HALF_LIFE_DAYS", 1e9)
    monkeypatch.setattr(calibration, "STRENGTH", 1e-3)
    model, served = dnn(tables), tables.at("valid")
    calibrate(model, served, SEEN)
    for domain in range(3):
        p = np.concatenate([expit(one.logit[one.domain == domain]) for one in (score_split(model, served, s) for s in SEEN)])
        label = np.concatenate([tables.column(s, "label")[tables.domain_rows(s, domain)] for s in SEEN])
        assert p.mean() == pytest.approx(label.mean(), rel=1e-3)


def test_offsets_come_with_catching_up_and_stay_with_the_weights(tables: Tables, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        model = dnn(tables)
        fit_ranker(model, tables, SETTINGS, tmp_path / name)
        if name == "b":  # in a later process
            model = dnn(tables)
            load_weights(model, tmp_path / name / WEIGHTS)
        catch_up(model, tables, "valid", SETTINGS, tmp_path / name)
        assert model.offset_D.all()
        written.append((tmp_path / name / WEIGHTS).read_bytes())
    assert written[0] == written[1]
    again = dnn(tables)
    load_weights(again, tmp_path / "a" / WEIGHTS)
    assert torch.equal(again.offset_D, model.offset_D)


def test_sampled_negatives_have_no_rate_to_match(tmp_path: Path) -> None:
    clicks = world.positives_only(tmp_path / "clicks")
    model = dnn(clicks)
    fit_ranker(model, clicks, SETTINGS, tmp_path / "fit")
    catch_up(model, clicks, "valid", SETTINGS, tmp_path / "fit")
    assert not model.offset_D.any()
