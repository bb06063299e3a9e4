"""Train on the past, measure on what came after: every recipe under one protocol, every number per domain.

Protocol: early stopping on the validation split, then one pass over it (trainer/fit.py: catch_up), so that the model has seen
everything before the test; then the test once. Rankers are scored as they would be served: user-domain vectors re-encoded by
the feature store from what happened before the test. Retrievers rank every eligible ad of the domain.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from trainer.datasets.canonical import Dataset
from trainer.feature_store import StoredVectors, encode_user_domains
from trainer.fit import FitReport, catch_up, parameter_count
from trainer.layers import Inputs, Ranker
from trainer.metrics import ndcg, over_domains, pointwise, ranked, recall
from trainer.recipes import Recipe, recipe
from trainer.report import to_html, to_markdown
from trainer.scoring import Serve, device_of, listed_scores, ranked_lists, score_split
from trainer.tables import Tables
from trainer.train import TrainedRanker, TrainedRetriever, train_ranker, train_retriever
from trainer.two_tower import TwoTower

__all__ = ["evaluate", "measure", "protocol", "to_html", "to_markdown"]

RECALL_AT = (10, 50, 100)
CANDIDATES_AT = 10
_TIE_SEED = 20_220_223
_FLOP_CANDIDATES = 256
_BEFORE = {"valid": ("train",), "test": ("train", "valid")}
Row = dict[str, Any]


def evaluate(
    dataset: Dataset | Path,
    recipes: Sequence[str],
    seeds: Iterable[int] = (0,),
    test_from: str | int | None = None,
    home: Path = Path(".mdrec"),
) -> dict[str, Any]:
    """One row a recipe and seed, as `evaluate --json` writes it. Halves that recipes share are trained once a seed. Raises
    BadInput for an unknown recipe or a dataset that cannot be split, before anything is trained."""
    parsed = [recipe(name) for name in recipes]
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    (home / "work").mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="evaluate-", dir=home / "work"))
    try:
        tables = Tables.build(dataset, work / "tables", test_from=test_from)
        rows = [row for seed in seeds for row in _one_seed(tables, parsed, seed, work / f"seed-{seed}")]
        settings = protocol(tables)
    finally:
        shutil.rmtree(work)
    rows.sort(key=lambda row: (list(recipes).index(row["recipe"]), row["seed"]))
    return {"dataset": dataset.spec.name, "protocol": settings, "rows": rows}


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
    if tables.positives_only:
        parts.append("AUC against 20 uniform ads of the domain per positive")
    if tables.candidates(split) is not None:
        parts.append(f"candidates: given lists, ties at random (seed {_TIE_SEED})")
    return "; ".join(parts)


def measure(
    tables: Tables, split: str, name: str, seed: int, ranker: TrainedRanker | None, retriever: TrainedRetriever | None
) -> Row:
    """One row, on a split the halves have not seen. Whatever does not apply is absent."""
    row: Row = {"recipe": name, "seed": seed}
    row["support"] = _support(tables, split)
    reports: list[FitReport] = []
    tables = tables.at(_BEFORE[split][-1])
    with torch.no_grad():
        if ranker is not None:
            serve = _serve(ranker.model, tables, split)
            scored = score_split(ranker.model, tables, split, serve)
            row |= pointwise(scored.label, scored.logit, scored.domain, tables.domains, not tables.positives_only)
            row["flops_per_candidate"] = flops_per_candidate(ranker.model, tables)
            row["sensitive_features"] = ranker.sensitive
            reports.append(ranker.report)
            row |= _on_candidates(tables, split, ranker.model, serve)
        if retriever is not None:
            row |= _full_corpus(tables, split, retriever.model)
            reports.append(retriever.report)
            if ranker is None:
                row["flops_per_candidate"] = 2 * int(retriever.model.dimension)
                row |= _on_candidates(tables, split, retriever.model, None)
    row["parameters"] = sum(parameter_count(half.model) for half in (ranker, retriever) if half is not None)
    row["epochs"] = [one.epochs for one in reports]
    row["train_seconds"] = sum(one.seconds for one in reports)
    if row["train_seconds"] > 0:
        row["train_rows_per_second"] = sum(one.rows for one in reports) / row["train_seconds"]
    return {key: value for key, value in row.items() if value not in ({}, [])}


def flops_per_candidate(model: Ranker, tables: Tables) -> int:
    """Floating-point operations of a request of 256 candidates, divided by 256: multiplications and additions of the matrix
    products, as torch counts them."""
    inputs = tables.batch("train", np.arange(min(_FLOP_CANDIDATES, tables.split_size("train")))).inputs
    shared = {name: getattr(inputs, name)[:1] for name in Inputs._fields if not name.startswith("ad_") and name != "user_vectors"}
    request = inputs._replace(**shared)
    if model.user_vectors is not None:
        vectors = torch.zeros(1, len(tables.domains), model.user_vectors.dimension)
        request = request._replace(user_vectors=vectors)
    where = device_of(model)
    counter = FlopCounterMode(display=False)
    with counter:
        model(Inputs(*(one.to(where) if one is not None else None for one in request)))  # type: ignore[arg-type]
    return round(counter.get_total_flops() / request.rows)


def _one_seed(tables: Tables, recipes: Sequence[Recipe], seed: int, work: Path) -> list[Row]:
    rankers: dict[str, TrainedRanker] = {}
    retrievers: dict[str, TrainedRetriever] = {}
    rows = []
    for one in recipes:
        if one.ranker and one.ranker not in rankers:
            directory = work / f"ranker-{one.ranker}"
            trained = train_ranker(one.ranker, tables, seed, directory, base=work / "base")
            catch_up(trained.model, tables, "valid", trained.settings, directory)
            rankers[one.ranker] = trained
        if one.retriever and one.retriever not in retrievers:
            directory = work / f"retriever-{one.retriever}"
            found = train_retriever(one.retriever, tables, seed, directory)
            catch_up(found.model, tables, "valid", found.settings, directory)
            retrievers[one.retriever] = found
        halves = rankers.get(one.ranker or ""), retrievers.get(one.retriever or "")
        rows.append(measure(tables, "test", one.name, seed, *halves))
    return rows


def _support(tables: Tables, split: str) -> Row:
    """Events and positives by domain: what the numbers rest on."""
    found = {}
    for number, name in enumerate(tables.domains):
        rows = tables.domain_range(split, number)
        label = tables.column(split, "label")[rows.start : rows.stop]
        found[name] = {"events": len(rows), "positives": int((label > 0).sum())}
    return found


def _serve(model: Ranker, tables: Tables, split: str) -> Serve | None:
    if model.user_vectors is None:
        return None
    return StoredVectors(model, *encode_user_domains(model, tables, _BEFORE[split]))


def _full_corpus(tables: Tables, split: str, model: TwoTower) -> Row:
    by_k: dict[int, dict[str, float]] = {k: {} for k in RECALL_AT}
    gains: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for number, name in enumerate(tables.domains):
        lists = ranked_lists(model, tables, split, number, max(RECALL_AT))
        if lists is None:
            skipped[name] = "no positive that its user had not had there before"
            continue
        for k in RECALL_AT:
            by_k[k][name] = recall(lists.hit, lists.relevant, k)
        gains[name] = ndcg(lists.hit, lists.relevant, 10)
    found: Row = {"recall": {str(k): over_domains(values) for k, values in by_k.items()}, "ndcg@10": over_domains(gains)}
    return {**found, **({"skipped_recall": skipped} if skipped else {})} if gains else {"skipped_recall": skipped}


def _on_candidates(tables: Tables, split: str, model: Ranker | TwoTower, serve: Serve | None) -> Row:
    """Given lists, ranked by one half: the protocol of ADI's public comparison."""
    lists = tables.candidates(split)
    if lists is None:
        return {}
    score_BC = listed_scores(model, tables, lists, serve)
    order_BC = ranked(score_BC, lists.ads >= 0, _TIE_SEED)
    truth = _positive_keys(tables, split)
    key_BC = _keys(tables, lists.user_row[:, None], lists.domain[:, None], lists.ads)
    hit_BC = np.take_along_axis(np.isin(key_BC, truth) & (lists.ads >= 0), order_BC, axis=1)
    relevant_B = hit_BC.sum(axis=1)
    recalls, gains = {}, {}
    for number, name in enumerate(tables.domains):
        rows = (lists.domain == number) & (relevant_B > 0)
        if rows.any():
            recalls[name] = recall(hit_BC[rows], relevant_B[rows], CANDIDATES_AT)
            gains[name] = ndcg(hit_BC[rows], relevant_B[rows], CANDIDATES_AT)
    return {
        "recall_candidates": {str(CANDIDATES_AT): over_domains(recalls)},
        f"ndcg_candidates@{CANDIDATES_AT}": over_domains(gains),
    }


def _positive_keys(tables: Tables, split: str) -> NDArray[np.int64]:
    kept = tables.column(split, "label") > 0
    return _keys(tables, *(tables.column(split, name)[kept] for name in ("user_row", "domain", "ad_row")))


def _keys(tables: Tables, user: NDArray[Any], domain: NDArray[Any], ad: NDArray[Any]) -> NDArray[np.int64]:
    """One number a (user, domain, ad)."""
    wide = user.astype(np.int64) * len(tables.domains) + domain
    return np.asarray(wide * len(tables.ads) + ad)
