"""One night: close the day, freeze, train, evaluate, gate, export, index, publish, for every live recipe.

Each step is skipped when its digest is there (deploy/steps.py), so a killed night resumes; a failed gate leaves
yesterday's alias. Two recipes that share a half train it once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from contracts.aliases import Aliases
from contracts.errors import BadInput, WorkFailed
from deploy import side_by_side
from deploy.close_day import drain, logged_events
from deploy.experiments_report import report_experiments
from deploy.halves import Halves, halves_of
from deploy.night_log import diary
from deploy.publish import Publisher
from deploy.retention import retire
from deploy.steps import Steps
from trainer.datasets.canonical import Dataset
from trainer.datasets.check import check
from trainer.recipes import servable_recipe
from trainer.tables import Tables

DEFAULT_RECIPE = "adi+dsfm_dfei"


@dataclass
class Night:
    """What came of it. published: recipe -> bundle id; failed: recipe -> why its alias did not move."""

    published: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        lines = [f"{recipe}: serving {bundle_id}" for recipe, bundle_id in self.published.items()]
        lines += [f"{recipe}: held back, the alias stays: {why}" for recipe, why in self.failed.items()]
        return "\n".join(lines)


def nightly(
    data: Path,
    recipes: Sequence[str],
    home: Path,
    redis_url: str,
    seed: int = 0,
    test_from: str | int | None = None,
    say: Callable[[str], None] = print,
) -> Night:
    """Rebuild `recipes` (by default the live ones, on the very first night DEFAULT_RECIPE) from the logs in `data` and from
    what the gateway logged. Raises BadInput for an unknown or unservable recipe or unusable data before any work; a recipe
    whose gates fail is in `failed`."""
    for name in recipes:
        servable_recipe(name)
    check(data).raise_if_bad()
    with _only_one(home), redis.Redis.from_url(redis_url) as client, diary(home) as log:
        steps = Steps(home / "work", say, log.step)
        drained = drain(client, home)
        say(f"{'events moved to the ledger':<28} {drained.exposures + drained.feedback:,}")
        logged = logged_events(Dataset.open(data), home, steps, say)
        dataset = Dataset.open(data, extra_events=[logged] if logged else [])
        facts = {"dataset": dataset.digest(), "test_from": test_from}
        tables_path = steps.run("tables", facts, lambda path: _tabulate(dataset, path, test_from))
        tables = Tables.open(tables_path)
        aliases = Aliases(home)
        wanted = recipes or aliases.recipes() or [DEFAULT_RECIPE]
        halves = Halves(tables, facts, steps, seed)
        publisher = Publisher(tables, halves, home, client, steps, seed)
        night = Night()
        to_train = halves_of(one for one in wanted if not publisher.published(one))
        side_by_side.train(tables_path, facts, seed, to_train, home / "work", say, log.step)
        for recipe in wanted:
            try:
                manifest = publisher.publish(recipe)
            except WorkFailed as error:
                night.failed[recipe] = str(error)
                log.held_back(recipe, str(error), publisher.judged.get(recipe, []))
                say(f"{recipe}: held back: {error}")
                continue
            aliases.move(recipe, manifest.bundle_id)
            night.published[recipe] = manifest.bundle_id
            log.published(recipe, manifest.bundle_id, manifest.gates)
        for key, verdict in report_experiments(home, client, say).items():
            log.experiment(key, verdict)
        retire(home, client, say)
        return night


def _tabulate(dataset: Dataset, path: Path, test_from: str | int | None) -> None:
    Tables.build(dataset, path, test_from=test_from)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One night at a time under one home; the lock goes with the process, however it ends."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "night.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another night is running under {home}", "wait for it, or set MDREC_HOME") from None
        lock.write(str(os.getpid()))
        yield
