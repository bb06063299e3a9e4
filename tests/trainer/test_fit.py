"""The training loop: learns, stops early, keeps the best, and ends in the same bytes however often it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tables_world as world
import torch
from torch import Tensor, nn

from contracts.schema import FeatureSchema
from trainer import fit
from trainer.baselines.popularity import Popularity
from trainer.baselines.rates import Rates, RatesConfig
from trainer.baselines.shared_dnn import SharedDNN, SharedDNNConfig
from trainer.checkpoint import WEIGHTS
from trainer.fit import FitSettings, catch_up, fit_ranker, fit_retriever
from trainer.layers import FieldEmbedding
from trainer.scoring import mean_auc, mean_recall
from trainer.tables import Tables
from trainer.two_tower import TwoTower

QUICK = FitSettings(epochs=3, batch_rows=64, learning_rate=0.01, patience=3)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.positives_only(tmp_path_factory.mktemp("clicks"))


def ranker(tables: Tables, seed: int = 0) -> SharedDNN:
    torch.manual_seed(seed)
    return SharedDNN(tables.schema, SharedDNNConfig(dim=4, hidden=(8,), dropout=0.2))


def able(tables: Tables) -> SharedDNN:
    torch.manual_seed(0)
    return SharedDNN(tables.schema, SharedDNNConfig(dim=8, hidden=(32, 16), dropout=0.0, embedding_l2=0.0))


class Tower(TwoTower):
    """Mean of tokens, the domain added on the user's side."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.dimension = 4
        self.tokens = FieldEmbedding(schema, 4, blocks=("user", "ad"))
        self.domain = nn.Parameter(torch.randn(len(schema.domains), 4) * 0.1)

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        return self.tokens.block_tokens("user", codes, dense).mean(1) + self.domain[domain]

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        return self.tokens.block_tokens("ad", codes, dense).mean(1)


def tower(tables: Tables) -> Tower:
    torch.manual_seed(0)
    return Tower(tables.schema)


def test_a_ranker_learns_what_rates_cannot_know(tables: Tables, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=5, patience=5, learning_rate=0.005)
    model = able(tables)
    report = fit_ranker(model, tables, settings, tmp_path / "dnn")
    rates = Rates(tables.schema, RatesConfig())
    fit_ranker(rates, tables, settings, tmp_path / "rates")
    learned, known = mean_auc(model, tables, "test"), mean_auc(rates, tables, "test")
    assert learned is not None and known is not None and learned > known + 0.05
    best = max(one for one in report.metrics if one is not None)
    assert report.metrics[report.best_epoch - 1] == best == mean_auc(model, tables, "valid")
    assert report.rows % (tables.split_size("train") * report.epochs) == 0 < report.rows and report.parameters > 0


def test_positives_only_data_are_learned_from_sampled_negatives(clicks: Tables, tmp_path: Path) -> None:
    model = able(clicks)
    fit_ranker(model, clicks, replace(QUICK, epochs=5, patience=5, learning_rate=0.02), tmp_path)
    found = mean_auc(model, clicks, "valid")
    assert found is not None and found > 0.56


@pytest.mark.parametrize("half", ["ranker", "retriever"])
def test_interrupted_and_resumed_is_the_same_bytes(half: str, clicks: Tables, tables: Tables, tmp_path: Path) -> None:
    data = tables if half == "ranker" else clicks
    build: Callable[[], SharedDNN | Tower] = (lambda: ranker(data)) if half == "ranker" else (lambda: tower(data))
    fit = fit_ranker if half == "ranker" else fit_retriever
    whole = fit(build(), data, QUICK, tmp_path / "whole")  # type: ignore[arg-type]
    for stop_at in (1, 7, 13):  # at the very start and within an epoch
        model = build()
        calls, loss = 0, model.training_loss

        def dying(*given: object, stop_at: int = stop_at, loss: Callable[..., Tensor] = loss) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return loss(*given)

        model.training_loss = dying  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            fit(model, data, QUICK, tmp_path / str(stop_at))  # type: ignore[arg-type]
        assert not (tmp_path / str(stop_at) / WEIGHTS).exists()
        torch.manual_seed(99)
        report = fit(build(), data, QUICK, tmp_path / str(stop_at))  # type: ignore[arg-type]
        assert report.metrics == whole.metrics and report.rows == whole.rows
        assert (tmp_path / str(stop_at) / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


_VICTIM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from trainer import checkpoint
from trainer.tables import Tables
import test_fit
written = checkpoint.write_json
def once(path, value):
    if value["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)  # the second state is written, the pointer to it is not
    written(path, value)
checkpoint.write_json = once
tables = Tables.open(Path(sys.argv[1]))
test_fit.fit_ranker(test_fit.ranker(tables), tables, test_fit.QUICK, Path(sys.argv[2]))
"""


def test_killed_between_the_two_files_of_a_checkpoint(tables: Tables, tmp_path: Path) -> None:
    arguments = [str(tables.directory), str(tmp_path / "killed"), str(Path(__file__).parent)]
    died = subprocess.run([sys.executable, "-c", _VICTIM, *arguments], capture_output=True, env=os.environ)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not (tmp_path / "killed" / WEIGHTS).exists()
    for directory in ("killed", "whole"):
        fit_ranker(ranker(tables), tables, QUICK, tmp_path / directory)
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_another_seed_or_setting_does_not_continue_a_checkpoint(tables: Tables, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1)
    first = fit_ranker(ranker(tables), tables, settings, tmp_path)
    weights = (tmp_path / WEIGHTS).read_bytes()
    other = fit_ranker(ranker(tables), tables, replace(settings, seed=1), tmp_path)
    assert other.epochs == first.epochs and (tmp_path / WEIGHTS).read_bytes() != weights
    fit_ranker(ranker(tables), tables, settings, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == weights


def scripted(
    tables: Tables, metrics: list[float | None], settings: FitSettings, directory: Path, patch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Epochs run and the best one, when validation says `metrics`."""
    remaining = iter(metrics)
    patch.setattr("trainer.fit.mean_auc", lambda *_: next(remaining))
    patch.setattr("trainer.fit._MIN_STEPS", 1)
    report = fit_ranker(ranker(tables), tables, settings, directory)
    return report.epochs, report.best_epoch


def test_early_stopping_waits_for_patience_and_keeps_the_best(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, epochs=9, batch_rows=512, patience=2, chance=0.52)
    assert scripted(tables, [0.6, 0.7, 0.69, 0.7, 0.9], settings, tmp_path / "a", monkeypatch) == (4, 2)
    assert scripted(tables, [0.5, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5], settings, tmp_path / "b", monkeypatch) == (7, 5)
    assert scripted(tables, [None] * 9, settings, tmp_path / "c", monkeypatch) == (9, 9)


def test_catching_up_learns_the_held_out_rows_and_rewrites_the_weights(tables: Tables, tmp_path: Path) -> None:
    model = ranker(tables)
    fit_ranker(model, tables, QUICK, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    batch = tables.batch("valid", np.arange(tables.split_size("valid")))
    loss = float(model.training_loss(batch).detach())
    catch_up(model, tables, "valid", QUICK, tmp_path)
    assert not model.training and float(model.training_loss(batch).detach()) < loss
    assert (tmp_path / WEIGHTS).read_bytes() != before


def test_a_retriever_learns_and_popularity_is_counted(clicks: Tables, tmp_path: Path) -> None:
    model = tower(clicks)
    before = mean_recall(model, clicks, "valid", 5)
    fit_retriever(model, clicks, replace(QUICK, epochs=6, patience=6, learning_rate=0.05, negatives=64), tmp_path / "tower")
    after = mean_recall(model, clicks, "valid", 5)
    assert before is not None and after is not None and after > before + 0.02
    popularity = Popularity(clicks.schema)
    report = fit_retriever(popularity, clicks, QUICK, tmp_path / "popularity")
    assert report.epochs == 1 and (tmp_path / "popularity" / WEIGHTS).is_file()


def test_a_rate_that_cools_falls_to_zero_and_starts_again_at_half(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    descend = fit._descend

    def watched(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        descend(optimizer, loss)

    monkeypatch.setattr(fit, "_descend", watched)
    settings = replace(QUICK, epochs=2, patience=2, cools=True)
    model = ranker(tables)
    fit_ranker(model, tables, settings, tmp_path)
    assert rates[0] == settings.learning_rate and rates == sorted(rates, reverse=True) and 0 < rates[-1] < rates[0] / 20
    del rates[:]
    catch_up(model, tables, "valid", settings, tmp_path)
    assert rates[0] == settings.learning_rate / 2 and rates == sorted(rates, reverse=True)


def test_what_stands_beside_the_towers_is_settled_once_before_they_learn(clicks: Tables, tmp_path: Path) -> None:
    model, settled = tower(clicks), []
    model.settle = lambda measure: settled.append((measure(), model.domain.detach().clone()))  # type: ignore[method-assign,assignment]
    before = model.domain.detach().clone()
    fit_retriever(model, clicks, QUICK, tmp_path)
    assert len(settled) == 1 and settled[0][0] is not None and torch.equal(settled[0][1], before)
