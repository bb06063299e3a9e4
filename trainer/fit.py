"""One plain training loop for every gradient model: seeded, checkpointed after each epoch, stopped early.

An epoch is one pass over the training rows, or as many as make 50 steps where the rows are few.

What an epoch draws (row order, negatives, dropout) follows from (seed, epoch) alone, so a run killed at any moment and
started again ends in the same bytes on the same machine with the same number of threads.

Validation follows training in time (see Dataset.split_scans). Rankers stop on the mean per-domain AUC, retrievers on the mean
per-domain Recall@50; without a validation split they run all their epochs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.batches import epoch_rows, joined, with_negatives, with_strangers
from trainer.calibration import calibrate
from trainer.checkpoint import WEIGHTS, Checkpoints, Position, load_weights, save_weights
from trainer.layers import Ranker
from trainer.prefetch import ahead
from trainer.progress import progress
from trainer.sampling import Sampler
from trainer.scoring import mean_auc, mean_recall
from trainer.self_training import percent_of, pseudo_positives
from trainer.tables import Batch, Tables
from trainer.tabulate import SPLITS
from trainer.two_tower import Retriever, TwoTower

_RECALL_AT = 50
_MIN_STEPS = 50  # fewer batches make an epoch several passes: nothing is judged before something can be learned
_CATCH_UP = 1_000_000  # an epoch number no fit reaches: catch_up draws its own order


@dataclass(frozen=True)
class FitSettings:
    """batch_rows: rows (positives, for retrievers and positives-only data) a step; patience: epochs without a better
    validation metric before stopping; negatives: sampled ads per positive (rankers on positives-only data), or uniform ads a
    step (retrievers); id_dropout: share of a ranker's rows whose user, and of those whose ad, is taken for unknown; chance: the
    validation metric of knowing nothing; self_training_*: percent of pseudo-positives in epoch 1 and its growth per epoch,
    0 = none; cools: the learning rate falls linearly to 0 over all epochs."""

    epochs: int = 10
    batch_rows: int = 1024
    learning_rate: float = 1e-3
    patience: int = 2
    negatives: int = 4
    chance: float = 0.0
    id_dropout: float = 0.0
    self_training_percent: float = 0.0
    self_training_step: float = 0.0
    cools: bool = False
    seed: int = 0


@dataclass(frozen=True)
class FitReport:
    """metrics: the validation metric after each epoch (None: not to be had); rows: events read, over all epochs; seconds:
    training alone, without validation."""

    epochs: int
    best_epoch: int
    metrics: list[float | None]
    rows: int
    seconds: float
    parameters: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


Step = tuple[Tensor, int]  # loss, rows read


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_ranker(model: Ranker, tables: Tables, settings: FitSettings, directory: Path) -> FitReport:
    """Train in place, weights of the best epoch; they also stand in directory/weights.safetensors. Positives-only data get
    sampled negatives (trainer/batches.py). A model with `fit_whole(tables, settings)` is fitted by it, in one call."""
    model.to(device())
    model.prepare(tables)
    if hasattr(model, "fit_whole"):
        return _whole(model, tables, settings, directory)
    report = _fit(
        model,
        settings,
        directory,
        steps=_ranker_steps(tables, "train", settings),
        losses=lambda epoch: _ranker_losses(model, tables, "train", settings, epoch),
        measure=lambda: mean_auc(model, tables, "valid"),
    )
    started = time.perf_counter()
    model.fit_beside(tables, settings)
    save_weights(directory / WEIGHTS, model.state_dict())
    return replace(report, seconds=report.seconds + time.perf_counter() - started, parameters=parameter_count(model))


def fit_retriever(model: Retriever, tables: Tables, settings: FitSettings, directory: Path) -> FitReport:
    """As fit_ranker, on training positives against in-batch and uniform negatives."""
    model.to(device())
    model.prepare(tables)
    if hasattr(model, "fit_whole"):
        return _whole(model, tables, settings, directory)
    towers = cast(TwoTower, model)
    towers.settle(lambda: mean_recall(towers, tables, "valid", _RECALL_AT))
    sampler = Sampler(tables, settings.batch_rows, settings.negatives, settings.seed)
    return _fit(
        towers,
        settings,
        directory,
        steps=_retriever_steps(sampler, settings),
        losses=lambda epoch: _retriever_losses(towers, tables, sampler, settings, epoch),
        measure=lambda: mean_recall(model, tables, "valid", _RECALL_AT),
    )


def catch_up(model: Ranker | Retriever, tables: Tables, split: str, settings: FitSettings, directory: Path) -> None:
    """One pass over a held-out split, so that the model that is published has seen the last days, and the offsets of its domains
    after it. Rewrites the weights. Models fitted in one call are fitted again, on everything up to that split."""
    if tables.split_size(split) == 0:
        return
    tables = tables.at(split)
    seen = SPLITS[: SPLITS.index(split) + 1]
    everything = cast(Tables, _AsTraining(tables, seen))
    if hasattr(model, "fit_whole"):
        _whole(model, everything, settings, directory)
    else:
        _pass_over(cast(Ranker | TwoTower, model), tables, split, everything, settings)
    if isinstance(model, Ranker) and not tables.positives_only:
        calibrate(model, tables, seen)
    save_weights(directory / WEIGHTS, model.state_dict())


def parameter_count(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def _pass_over(model: Ranker | TwoTower, tables: Tables, split: str, everything: Tables, settings: FitSettings) -> None:
    """One pass for a gradient model, and a new fit of what stands beside it."""
    torch.manual_seed(settings.seed * _CATCH_UP + _CATCH_UP)
    if isinstance(model, Ranker):
        losses = _ranker_losses(model, tables, split, settings, _CATCH_UP)
        steps = _ranker_steps(tables, split, settings)
    else:
        model.extend(everything)
        held_out = cast(Tables, _AsTraining(tables, (split,)))
        sampler = Sampler(held_out, settings.batch_rows, settings.negatives, settings.seed)
        losses = _retriever_losses(model, tables, sampler, replace(settings, self_training_percent=0.0), _CATCH_UP)
        steps = _retriever_steps(sampler, settings)
    optimizer = _optimizer(model, settings)
    model.train()
    for number, (loss, _) in enumerate(losses):
        if settings.cools:  # from the middle of the fit's rates
            _cool(optimizer, 0.5 * (1.0 - number / steps))
        _descend(optimizer, loss)
    model.eval()
    if isinstance(model, Ranker):
        model.fit_beside(everything, settings)


def _fit(
    model: Ranker | TwoTower,
    settings: FitSettings,
    directory: Path,
    steps: int,
    losses: Callable[[int], Iterator[Step]],
    measure: Callable[[], float | None],
) -> FitReport:
    checkpoints = Checkpoints(directory)
    passes = -(-_MIN_STEPS // max(1, steps))
    optimizer = _optimizer(model, settings)
    position = checkpoints.load(model, optimizer, asdict(settings))
    while not position.finished:
        with progress(f"{type(model).__name__} epoch {position.epoch + 1}/{settings.epochs}", steps * passes) as bar:
            torch.manual_seed(settings.seed * _CATCH_UP + position.epoch)
            model.train()
            started = time.perf_counter()
            for number in range(position.epoch * passes, (position.epoch + 1) * passes):
                for step, (loss, rows) in enumerate(losses(number)):
                    if settings.cools:
                        _cool(optimizer, 1.0 - (number + step / steps) / (settings.epochs * passes))
                    _descend(optimizer, loss)
                    position.rows += rows
                    bar.advance()
            if device().type == "cuda":  # which is asked for its results later than for its work
                torch.cuda.synchronize()
            position.seconds += time.perf_counter() - started
            model.eval()
            position.metrics.append(measure())
            _advance(position, settings)
            checkpoints.save(model, optimizer, position)
            shown = position.metrics[-1]
            measured = "no validation" if shown is None else f"validation {shown:.4f}"
            bar.say(
                f"{type(model).__name__} epoch {position.epoch}/{settings.epochs}: {measured}, {position.seconds:.1f} s so far"
            )
    load_weights(model, checkpoints.best)
    model.eval()
    save_weights(directory / WEIGHTS, model.state_dict())
    return FitReport(
        position.epoch, position.best_epoch, position.metrics, position.rows, position.seconds, parameter_count(model)
    )


def _advance(position: Position, settings: FitSettings) -> None:
    """One more epoch is done: is it the best, is it the last? Without a metric the latest is the best. Patience starts where the
    model is better than `settings.chance`: what has not begun to learn has not stopped learning either."""
    position.epoch += 1
    now = position.metrics[-1]
    best = position.metrics[position.best_epoch - 1] if position.best_epoch else None
    if now is None or best is None or now > best:
        position.best_epoch = position.epoch
    learning = now is None or any(one is not None and one > settings.chance for one in position.metrics)
    tired = learning and position.epoch - position.best_epoch >= settings.patience
    position.finished = tired or position.epoch >= settings.epochs


def _optimizer(model: Ranker | TwoTower, settings: FitSettings) -> torch.optim.Optimizer:
    """Fused: the plain one took 37% of a step where tables are large (EDDA Ali-CCP, 128-d)."""
    groups = [{**group, "initial_lr": group["lr"]} for group in model.parameter_groups(settings.learning_rate)]
    return torch.optim.Adam(groups, fused=True)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _cool(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Every group at `share` of its own rate (domain-pure batches of unequal domains may be a few more than counted)."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * max(0.0, share)


def _ranker_losses(model: Ranker, tables: Tables, split: str, settings: FitSettings, epoch: int) -> Iterator[Step]:
    where = device()
    model.start_epoch()
    batches = _batches(model, tables, split, settings, epoch)
    for batch, rows in ahead(batches) if where.type == "cuda" else batches:
        yield model.training_loss(batch.to(where)), rows


def _batches(model: Ranker, tables: Tables, split: str, settings: FitSettings, epoch: int) -> Iterator[tuple[Batch, int]]:
    """Each batch of one epoch, and how many events it was made of."""
    rng = np.random.default_rng([settings.seed, epoch])
    for rows in epoch_rows(tables, split, settings.batch_rows, model.domain_pure, rng):
        batch = tables.batch(split, rows)
        if tables.positives_only:
            batch = with_negatives(tables, batch, settings.negatives, rng)
        if settings.id_dropout:
            batch = with_strangers(tables, batch, settings.id_dropout, rng)
        yield batch, len(rows)


def _ranker_steps(tables: Tables, split: str, settings: FitSettings) -> int:
    return -(-tables.split_size(split) // settings.batch_rows)


def _retriever_steps(sampler: Sampler, settings: FitSettings) -> int:
    return sum(-(-len(sampler.pairs.of(domain).ad_row) // settings.batch_rows) for domain in sampler.domains)


def _retriever_losses(model: TwoTower, tables: Tables, sampler: Sampler, settings: FitSettings, epoch: int) -> Iterator[Step]:
    pseudo = None
    percent = percent_of(epoch, 1, settings.self_training_percent, settings.self_training_step)
    if settings.self_training_percent and percent:
        pseudo = pseudo_positives(model, tables, sampler.pairs, percent)
    where = device()
    for positives, negatives in sampler.epoch(epoch, pseudo):
        yield model.training_loss(_moved(positives, where), _moved(negatives, where)), len(positives.user_row)


def _moved(parts: Any, where: torch.device) -> Any:
    return type(parts)(*(part.to(where) if isinstance(part, Tensor) else part for part in parts))


def _whole(model: Ranker | Retriever, tables: Tables, settings: FitSettings, directory: Path) -> FitReport:
    started = time.perf_counter()
    model.fit_whole(tables, settings)  # type: ignore[operator]
    model.eval()
    save_weights(directory / WEIGHTS, model.state_dict())
    rows = tables.split_size("train")
    return FitReport(1, 1, [None], rows, time.perf_counter() - started, parameter_count(model))


class _AsTraining:
    """Tables whose training split is made of others, one after the other."""

    def __init__(self, tables: Tables, splits: Sequence[str]) -> None:
        self._tables, self._splits = tables, splits

    def __getattr__(self, name: str) -> object:
        return getattr(self._tables, name)

    def split_size(self, split: str) -> int:
        return sum(self._tables.split_size(one) for one in self._made_of(split))

    def column(self, split: str, name: str) -> object:
        parts = [self._tables.column(one, name) for one in self._made_of(split)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def batch(self, split: str, indices: NDArray[np.int64]) -> Batch:
        """indices: rising."""
        parts, start = [], 0
        for one in self._made_of(split):
            stop = start + self._tables.split_size(one)
            first, last = np.searchsorted(indices, [start, stop])
            parts.append(self._tables.batch(one, indices[first:last] - start))
            start = stop
        return joined(parts)

    def _made_of(self, split: str) -> Sequence[str]:
        return self._splits if split == "train" else (split,)
