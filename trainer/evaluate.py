"""Train on the past, measure on what came after: every recipe under one protocol, every number per domain.

Protocol: early stopping on the validation split, then one pass over it (trainer/fit.py: catch_up), so that the model has seen
everything before the test, and an offset a domain (trainer/calibration.py); then the test once (trainer/measure.py).
Vocabularies are the training window's. Every prediction is kept, so that recipes are compared row by row on the same users
(trainer/paired.py). `signature` names, in one short line, all settings without which a number means nothing: numbers under
different signatures do not compare.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BadInput, WorkFailed
from contracts.files import exclusive, replace_dir
from trainer.datasets.canonical import Dataset
from trainer.freeze import MIN_COUNT
from trainer.measure import CANDIDATES_AT, RECALL_AT, TIE_SEED, Predictions, Row, flops_per_candidate, joined, measure
from trainer.paired import RESAMPLES, Rows, differences
from trainer.rankers import RANKERS
from trainer.recipes import Recipe, known, ranker_plan, recipe, retriever_plan
from trainer.report import to_html, to_markdown
from trainer.retrievers import RETRIEVERS
from trainer.source import source_digest
from trainer.tables import Tables
from trainer.trials import Trial, Trials

__all__ = ["evaluate", "flops_per_candidate", "measure", "protocol", "recipe_set", "signature", "to_html", "to_markdown"]

QUICK_EPOCHS = 2  # KuaiRand-Pure, two cores, two jobs: a ranker in half a minute; most peak at the second epoch there
_NEGATIVES = 20  # per positive, where positives are all there is (trainer/scoring.py)
_ABOUT = ("rows.user", "rows.domain", "rows.label", "lists.user", "lists.domain", "candidates.user", "candidates.domain")
_SETS: Mapping[str, Mapping[str, Any]] = {"rankers": RANKERS, "retrievers": RETRIEVERS}


def recipe_set(name: str) -> list[str]:
    """Every model of one half, in the order of its table, without variants; or a model and all of its variants. Raises
    BadInput."""
    found = list(_SETS[name]) if name in _SETS else [one for one in known() if one.partition(":")[0] == name]
    if not found:
        raise BadInput(f"unknown set {name!r}", f"known: {', '.join(_SETS)}, and every model's name")
    return found


def evaluate(
    dataset: Dataset | Path,
    recipes: Sequence[str],
    seeds: Iterable[int] = (0,),
    test_from: str | int | None = None,
    home: Path = Path(".mdrec"),
    score_domains: Sequence[str] = (),
    against: str | None = None,
    refreshed: bool = False,
    quick: bool = False,
    jobs: int = 1,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """What `evaluate --json` writes: a row a recipe and seed, paired differences of recipes, the signature.

    Halves that recipes share are trained once a seed, and once for all seeds where no seed decides anything; what was measured
    before under the same settings and code is not trained again (home/work/evaluate-*). score_domains: the domains that count,
    where not all do; against: the recipe that others are compared with, by default the first; refreshed: statistics are counted
    anew before each day of the test; quick: at most 2 epochs. Raises BadInput for an unknown recipe or domain or a dataset that
    cannot be split, before anything is trained. What fails is under "failed", and the rest is there.
    """
    started = time.perf_counter()
    parsed, seeds = [recipe(name) for name in dict.fromkeys(recipes)], list(seeds)
    against = against or parsed[0].name
    if against not in {one.name for one in parsed}:
        raise BadInput(f"cannot compare against {against!r}, which is not evaluated", f"name it as a --recipe {against}")
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    work = home / "work" / f"evaluate-{_key(dataset, test_from)}"
    tables = _tables(dataset, test_from, work, refreshed)
    scored = [tables.domain_number(name) for name in score_domains]
    epochs = QUICK_EPOCHS if quick else None
    halves = {(one.name, seed): _halves(one, seed, epochs) for one in parsed for seed in seeds}
    trials = Trials(tables, work)
    order = [trial for seed in seeds for one in parsed for trial in halves[one.name, seed]]  # the first seed is whole first
    failed = trials.run(order, jobs)
    rows, predictions = _collect(trials, halves, [tables.domains[one] for one in scored])
    result = {
        "dataset": dataset.spec.name,
        "protocol": protocol(tables),
        "signature": signature(tables, seeds, score_domains, quick, resamples),
        "seeds": seeds,
        "score_domains": list(score_domains),
        "against": against,
        "rows": rows,
        "paired": _paired(predictions, tables, scored, against, resamples),
        "wall_seconds": time.perf_counter() - started,
    }
    return {**result, **({"failed": failed} if failed else {})}


def protocol(tables: Tables, split: str = "test") -> str:
    """The settings that a number means nothing without."""
    sizes = ", ".join(f"{name} {tables.split_size(name):,}" for name in ("train", "valid", "test"))
    cut = f"split in time at {tables.cutoff.isoformat()}" if tables.cutoff else "split not by time"
    parts = [
        f"{cut} ({sizes} events)",
        f"measured on {split}",
        f"early stopping on valid{', then one pass over it' if split == 'test' else ''}",
        f"recall and ndcg@10 over every eligible ad of the domain (k = {', '.join(map(str, RECALL_AT))}), earlier positives of"
        " the user in the domain masked and not counted",
        "means are over (user, domain), then over domains",
    ]
    if tables.schema.statistics:
        parts.append(f"statistics features, counted {_counted(tables)}")
    if split == "test" and not tables.positives_only:
        parts.append("an offset a domain, by the latest rows before the test")
    if tables.positives_only:
        parts.append(f"AUC against {_NEGATIVES} uniform ads of the domain per positive")
    if tables.candidates(split) is not None:
        parts.append(f"candidates: given lists, ties at random (seed {TIE_SEED})")
    return "; ".join(parts)


def signature(
    tables: Tables, seeds: Sequence[int], score_domains: Sequence[str] = (), quick: bool = False, resamples: int = RESAMPLES
) -> str:
    """The settings as key:value, short and stable, as sacreBLEU names them: what two numbers must share to be compared."""
    cut = tables.cutoff.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ") if tables.cutoff else "untimed"
    parts = {
        "data": f"{tables.name}@{tables.digest[:10]}",
        "test": cut,
        "rows": "/".join(str(tables.split_size(one)) for one in ("train", "valid", "test")),
        "seeds": ",".join(map(str, seeds)),
        "epochs": f"quick<={QUICK_EPOCHS}" if quick else "plan",
        "scored": ",".join(score_domains) or "all",
        "min_count": MIN_COUNT,
        "statistics": ("every_night" if tables.refreshed else "until_test") if tables.schema.statistics else "none",
        "auc": f"uniform{_NEGATIVES}" if tables.positives_only else "impressions",
        "lists": f"given@{CANDIDATES_AT}+corpus" if tables.candidates("test") is not None else "corpus",
        "ties": "half" if tables.candidates("test") is None else f"half,random{TIE_SEED}",
        "interval": f"users*{resamples}",
        "mdrec": version("mdrec"),
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def _counted(tables: Tables) -> str:
    return "up to the day before, every day" if tables.refreshed else "up to the day before; for the test, up to where it begins"


def _key(dataset: Dataset, test_from: str | int | None) -> str:
    facts = {"data": dataset.digest(), "test_from": test_from, "source": source_digest(("trainer.tabulate", "trainer.tables"))}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _tables(dataset: Dataset, test_from: str | int | None, work: Path, refreshed: bool) -> Tables:
    """Built once; two evaluations that start together build them once."""
    with exclusive(work / "tables.lock"):
        if not (work / "tables").is_dir():
            part = work / "tables.part"
            shutil.rmtree(part, ignore_errors=True)
            Tables.build(dataset, part, test_from=test_from)
            replace_dir(part, work / "tables")
    return Tables(work / "tables", refreshed=refreshed)


def _halves(one: Recipe, seed: int, epochs: int | None) -> list[Trial]:
    """The ranker's first: where both have a number, the ranker's is the recipe's. What no seed decides is seed 0's."""
    found = []
    if one.ranker:
        found.append(Trial(one.ranker, True, seed if ranker_plan(one.ranker).seeded else 0, epochs))
    if one.retriever:
        found.append(Trial(one.retriever, False, seed if retriever_plan(one.retriever).seeded else 0, epochs))
    return found


def _collect(
    trials: Trials, halves: Mapping[tuple[str, int], Sequence[Trial]], scored: Sequence[str]
) -> tuple[list[Row], dict[tuple[str, int], Predictions]]:
    """Rows and predictions of the recipes whose halves all came through. What rows are about (users, domains, labels) is the same
    for all recipes and held once."""
    rows, predictions = [], {}
    held: Predictions = {}
    for (name, seed), parts in halves.items():
        found = [one for one in map(trials.load, parts) if one is not None]
        if len(found) == len(parts):
            row = joined(name, seed, [one.row for one in found])
            for metric in ("auc", "logloss"):
                values = [row[metric]["by_domain"][one] for one in scored if one in row.get(metric, {}).get("by_domain", {})]
                if values:
                    row[metric]["scored"] = float(np.mean(values))
            rows.append(row)
            own = {key: value for one in reversed(found) for key, value in one.predictions.items()}
            for key in (one for one in _ABOUT if one in own):
                if np.array_equal(held.setdefault(key, own[key]), own[key]):
                    own[key] = held[key]
            predictions[name, seed] = own
    return rows, predictions


def _paired(
    predictions: Mapping[tuple[str, int], Predictions], tables: Tables, scored: Sequence[int], against: str, resamples: int
) -> list[dict[str, Any]]:
    """Every difference of trainer/paired.py, for every metric that at least two recipes have."""
    scopes = {"scored": scored} if scored else {}
    metrics = dict.fromkeys(
        key for found in predictions.values() for key in found if key == "rows.logit" or "@" in key.partition(".")[2]
    )
    kept = []
    for metric in metrics:
        kind = metric.partition(".")[0]
        having = {key: found for key, found in predictions.items() if metric in found}
        first = next(iter(having.values()))
        rows = Rows(first[f"{kind}.user"], first[f"{kind}.domain"], first.get(f"{kind}.label"))
        for (name, seed), found in having.items():
            if any(found[key] is not first[key] for key in _ABOUT if key.startswith(kind)):
                raise WorkFailed(f"{name} seed {seed} was not measured on the rows of the others", "remove home/work/evaluate-*")
        values: dict[str, dict[int, Any]] = {}
        for (name, seed), found in having.items():
            values.setdefault(name, {})[seed] = found[metric]
        present = sorted(int(one) for one in np.unique(rows.domain))
        own = {**scopes, "mean": present, **{tables.domains[one]: [one] for one in present}}
        base = against if against in values else next(iter(values))
        kept += [asdict(one) for one in differences(_name(metric), rows, values, own, base, resamples)]
    return kept


def _name(metric: str) -> str:
    """As the rows of the result call it: "auc", "recall@50", "recall_candidates@10"."""
    kind, _, rest = metric.partition(".")
    return {"rows": "auc", "lists": rest, "candidates": rest.replace("@", "_candidates@")}[kind]
