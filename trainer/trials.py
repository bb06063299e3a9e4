"""Trials: one half of a recipe under one seed, trained, measured and kept, so that no evaluation does it twice.

A trial is named by the digest of all that decides it: the tables, the half's plan, the seed, the code. A killed evaluation
started again trains only what it had not finished, and that from its last checkpoint. What stays is a row (JSON) and the
predictions (npz); weights are removed once they are measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np

from contracts.files import aside, exclusive, read_json, write_json
from trainer import workers
from trainer.explain import explain_ranker, explain_retriever
from trainer.fit import catch_up
from trainer.measure import Measured, measure_ranker, measure_retriever
from trainer.rankers import RANKERS
from trainer.recipes import ranker_plan, retriever_plan
from trainer.retrievers import RETRIEVERS
from trainer.source import source_digest
from trainer.tables import Tables
from trainer.train import train_ranker, train_retriever

_CODE = ("trainer.train", "trainer.measure", "trainer.explain", "trainer.trials")
_LISTEN_SECONDS = 1.0  # a wait without an end does not hear Ctrl-C
_BASE_CODE = ("trainer.train", "trainer.baselines.shared_dnn")


@dataclass(frozen=True)
class Trial:
    """half: a model's name with its variants; epochs: at most so many, None: as the plan says."""

    half: str
    ranks: bool
    seed: int
    epochs: int | None = None

    @property
    def needs_attribution(self) -> bool:
        return self.ranks and ranker_plan(self.half).selection is not None

    def __str__(self) -> str:
        return f"{self.half} seed {self.seed}"


class Trials:
    """The trials on one set of tables, kept under `directory`."""

    def __init__(self, tables: Tables, directory: Path) -> None:
        self.tables = tables
        self.directory = directory
        self._base_source = source_digest(_BASE_CODE)

    def run(self, trials: Sequence[Trial], jobs: int = 1) -> dict[str, str]:
        """Train and measure what is not kept yet, `jobs` at a time. -> what failed and why: one model's failure does not cost the
        others their hours."""
        wanted = list(dict.fromkeys(trials))
        missing = [one for one in wanted if not self._row_path(one).is_file()]
        _say(f"{len(wanted)} trials, {len(wanted) - len(missing)} kept from before")
        failed: dict[str, str] = {}
        for number, (trial, error) in enumerate(self._done(_in_order(missing), jobs), start=1):
            if error is None:
                _say(f"[{number}/{len(missing)}] {trial}: {_headline(self._row(trial))}")
            else:
                failed[str(trial)] = f"{type(error).__name__}: {error}"
                traceback.print_exception(error)
                _say(f"[{number}/{len(missing)}] {trial} FAILED: {failed[str(trial)]}")
        return failed

    def load(self, trial: Trial) -> Measured | None:
        """None: it failed."""
        if not self._row_path(trial).is_file():
            return None
        with np.load(self._row_path(trial).with_suffix(".npz"), allow_pickle=False) as kept:
            return Measured(self._row(trial), dict(kept))

    def run_one(self, trial: Trial, path: Path) -> None:
        """path: of its row."""
        with exclusive(path.with_suffix(".lock")):
            if path.is_file():  # another evaluation was faster
                return
            started = time.perf_counter()
            scratch = self.directory / "training" / path.stem
            measured = self._ranker(trial, scratch) if trial.ranks else self._retriever(trial, scratch)
            with aside(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **measured.predictions)
            write_json(path, {**measured.row, "wall_seconds": time.perf_counter() - started})
            shutil.rmtree(scratch, ignore_errors=True)

    def _ranker(self, trial: Trial, scratch: Path) -> Measured:
        base = self.directory / "training" / f"base-{trial.seed}-{self._base_source}"
        trained = train_ranker(trial.half, self.tables, trial.seed, scratch, base, trial.epochs)
        catch_up(trained.model, self.tables, "valid", trained.settings, scratch)
        measured = measure_ranker(self.tables, "test", trained)
        return Measured({**measured.row, **explain_ranker(trained, self.tables, trial.seed, base)}, measured.predictions)

    def _retriever(self, trial: Trial, scratch: Path) -> Measured:
        trained = train_retriever(trial.half, self.tables, trial.seed, scratch, trial.epochs)
        catch_up(trained.model, self.tables, "valid", trained.settings, scratch)
        measured = measure_retriever(self.tables, "test", trained)
        return Measured({**measured.row, **explain_retriever(trained, self.tables, trial.seed)}, measured.predictions)

    def _done(self, trials: Sequence[Trial], jobs: int) -> Iterator[tuple[Trial, BaseException | None]]:
        """Each trial once it has ended."""
        if jobs == 1:
            for trial in trials:
                error: Exception | None = None
                try:
                    self.run_one(trial, self._row_path(trial))
                except Exception as caught:  # told, kept in the result, and the command fails; the other trials go on
                    error = caught
                yield trial, error
            return
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes to come: two of one thread do twice the work of one of two
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), workers.begin, (1,))
        try:
            where = self.tables.directory, self.tables.refreshed, self.directory
            futures: dict[Future[None], Trial] = {
                pool.submit(_run_elsewhere, *where, one, self._row_path(one)): one for one in trials
            }
            running = set(futures)
            while running:
                ended, running = wait(running, _LISTEN_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    yield futures[future], future.exception()
        except BaseException:  # Ctrl-C: what runs ends here too, and what waits is not begun
            for process in active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _row(self, trial: Trial) -> dict[str, Any]:
        return dict(read_json(self._row_path(trial)))

    def _row_path(self, trial: Trial) -> Path:
        plans: Mapping[str, Any] = RANKERS if trial.ranks else RETRIEVERS
        plan = (ranker_plan if trial.ranks else retriever_plan)(trial.half)
        modules = [plans[trial.half.partition(":")[0]].build.__module__]
        modules += ["trainer.with_trees"] if "with_trees" in trial.half.split(":") else []
        facts = {
            "tables": self.tables.digest,
            "refreshed": self.tables.refreshed,
            "trial": asdict(trial),
            "config": asdict(plan.config),
            "settings": asdict(plan.settings),
            "source": source_digest((*_CODE, *modules)),
        }
        mark = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        name = re.sub(r"[^A-Za-z0-9_]", "-", trial.half)
        return self.directory / "results" / f"{name}-{trial.seed}-{mark}.json"


def _run_elsewhere(tables: Path, refreshed: bool, directory: Path, trial: Trial, path: Path) -> None:
    Trials(Tables(tables, refreshed=refreshed), directory).run_one(trial, path)


def _in_order(trials: Sequence[Trial]) -> list[Trial]:
    """One trial a seed that needs the attribution's base model first, and the others that share it last: they would only wait."""
    first = {one.seed: one for one in reversed(trials) if one.needs_attribution}
    return sorted(trials, key=lambda one: 0 if first.get(one.seed) == one else 2 if one.needs_attribution else 1)


def _headline(row: Mapping[str, Any]) -> str:
    found = [f"AUC mean {row['auc']['mean_domain']:.4f}"] if "mean_domain" in row.get("auc", {}) else []
    found += [f"R@50 {row['recall']['50']['mean_domain']:.4f}"] if "recall" in row else []
    return ", ".join([*found, f"{row['wall_seconds']:.0f} s"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
