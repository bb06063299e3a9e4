"""One trained half on days it has not seen: every number per domain, and every prediction kept beside it.

Rankers are scored as they would be served: user-domain vectors re-encoded by the feature store from what happened before the
test. Retrievers rank every eligible ad of the domain. What does not apply is absent from a row, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from trainer.cold import cold_auc
from trainer.feature_store import stored_vectors
from trainer.fit import FitReport, parameter_count
from trainer.layers import Inputs, Ranker
from trainer.metrics import ndcg, ndcgs, over_domains, pointwise, ranked, recall, recalls, reliability
from trainer.scoring import Scored, Serve, listed_scores, ranked_lists, score_split
from trainer.tables import Tables
from trainer.train import TrainedRanker, TrainedRetriever
from trainer.two_tower import Retriever, TwoTower, device_of

RECALL_AT = (10, 50, 100)
CURVE_AT = (1, 2, 5, 10, 20, 50, 100)
CANDIDATES_AT = 10
TIE_SEED = 20_220_223
_FLOP_CANDIDATES = 256
_FEWEST_FOR_A_CURVE = 1_000  # rows of a domain whose ten points of reliability are more than noise
BEFORE = {"valid": ("train",), "test": ("train", "valid")}
Row = dict[str, Any]
Predictions = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Measured:
    """row: metrics as `evaluate --json` writes them, and "report": {epochs, rows, seconds} of the training. predictions: "rows.*"
    one entry an impression, "lists.*" one a ranked list of the whole corpus, "candidates.*" one a given list."""

    row: Row
    predictions: Predictions


def measure(
    tables: Tables, split: str, name: str, seed: int, ranker: TrainedRanker | None, retriever: TrainedRetriever | None
) -> Row:
    """One row, on a split the halves have not seen."""
    halves = [measure_ranker(tables, split, ranker)] if ranker is not None else []
    halves += [measure_retriever(tables, split, retriever)] if retriever is not None else []
    return joined(name, seed, [one.row for one in halves])


def joined(name: str, seed: int, halves: list[Row]) -> Row:
    """The row of a recipe from those of its halves, the ranker's first: its numbers win where both have one (given lists are
    ranked by the ranker, and a candidate costs what the ranker costs), costs of training add up."""
    row: Row = {}
    for half in reversed(halves):
        row |= {key: value for key, value in half.items() if key != "report"}
    reports = [half["report"] for half in halves]
    row["parameters"] = sum(half["parameters"] for half in halves)
    row["epochs"] = [one["epochs"] for one in reports]
    row["train_seconds"] = sum(one["seconds"] for one in reports)
    if row["train_seconds"] > 0:
        row["train_rows_per_second"] = sum(one["rows"] for one in reports) / row["train_seconds"]
    return {"recipe": name, "seed": seed, **{key: value for key, value in row.items() if value not in ({}, [])}}


@torch.no_grad()
def measure_ranker(tables: Tables, split: str, trained: TrainedRanker) -> Measured:
    model, tables = trained.model, tables.at(BEFORE[split][-1])
    serve = stored_vectors(model, tables, BEFORE[split])
    scored = score_split(model, tables, split, serve)
    row: Row = {"support": _support(tables, split)}
    row |= pointwise(scored.label, scored.logit, scored.domain, tables.domains, not tables.positives_only)
    if not tables.positives_only:
        row["reliability"] = _reliability(scored, tables.domains)
        row["cold"] = cold_auc(scored, tables, BEFORE[split])
    row["flops_per_candidate"] = flops_per_candidate(model, tables)
    row["sensitive_features"] = trained.sensitive
    kept: Predictions = {
        "rows.user": scored.user_row.astype(np.int32),
        "rows.domain": scored.domain.astype(np.int16),
        "rows.label": scored.label,
        "rows.logit": scored.logit,
    }
    given, lists = _on_candidates(tables, split, model, serve)
    return Measured({**row, **given, **_costs(model, trained.report)}, {**kept, **lists})


@torch.no_grad()
def measure_retriever(tables: Tables, split: str, trained: TrainedRetriever) -> Measured:
    model, tables = trained.model, tables.at(BEFORE[split][-1])
    row, kept = _full_corpus(tables, split, model)
    row["support"] = _support(tables, split)
    if isinstance(model, TwoTower):
        row["flops_per_candidate"] = 2 * int(model.dimension)
    given, lists = _on_candidates(tables, split, model, None)
    return Measured({**row, **given, **_costs(model, trained.report)}, {**kept, **lists})


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


def _costs(model: Ranker | Retriever, report: FitReport) -> Row:
    spent = {"epochs": report.epochs, "rows": report.rows, "seconds": report.seconds}
    return {"parameters": parameter_count(model), "report": spent}


def _support(tables: Tables, split: str) -> Row:
    """Events and positives by domain: what the numbers rest on."""
    found = {}
    for number, name in enumerate(tables.domains):
        rows = tables.domain_range(split, number)
        label = tables.column(split, "label")[rows.start : rows.stop]
        found[name] = {"events": len(rows), "positives": int((label > 0).sum())}
    return found


def _reliability(scored: Scored, domains: tuple[str, ...]) -> Row:
    own = {name: scored.domain == number for number, name in enumerate(domains)}
    curves = {
        name: reliability(scored.label[rows], scored.logit[rows])
        for name, rows in own.items()
        if rows.sum() >= _FEWEST_FOR_A_CURVE
    }
    return {"overall": reliability(scored.label, scored.logit), "by_domain": curves}


def _full_corpus(tables: Tables, split: str, model: Retriever) -> tuple[Row, Predictions]:
    by_k: dict[int, dict[str, float]] = {k: {} for k in CURVE_AT}
    gains: dict[str, float] = {}
    skipped: dict[str, str] = {}
    parts: list[Predictions] = []
    for number, name in enumerate(tables.domains):
        lists = ranked_lists(model, tables, split, number, max(CURVE_AT))
        if lists is None:
            skipped[name] = "no positive that its user had not had there before"
            continue
        for k in CURVE_AT:
            by_k[k][name] = recall(lists.hit, lists.relevant, k)
        gains[name] = ndcg(lists.hit, lists.relevant, 10)
        parts.append(_kept("lists", lists.user_row, number, lists.hit, lists.relevant, RECALL_AT))
    left_out: Row = {"skipped_recall": skipped} if skipped else {}
    if not gains:
        return left_out, {}
    row: Row = {"recall": {str(k): over_domains(by_k[k]) for k in RECALL_AT}, "ndcg@10": over_domains(gains)}
    row["recall_curve"] = {str(k): over_domains(values) for k, values in by_k.items()}
    return {**row, **left_out}, _concatenated(parts)


def _on_candidates(tables: Tables, split: str, model: Ranker | Retriever, serve: Serve | None) -> tuple[Row, Predictions]:
    """Given lists, ranked by one half: the protocol of ADI's public comparison."""
    lists = tables.candidates(split)
    if lists is None:
        return {}, {}
    score_BC = listed_scores(model, tables, lists, serve)
    order_BC = ranked(score_BC, lists.ads >= 0, TIE_SEED)
    truth = _positive_keys(tables, split)
    key_BC = _keys(tables, lists.user_row[:, None], lists.domain[:, None], lists.ads)
    hit_BC = np.take_along_axis(np.isin(key_BC, truth) & (lists.ads >= 0), order_BC, axis=1)
    relevant_B = hit_BC.sum(axis=1)
    recalls_of, gains = {}, {}
    parts: list[Predictions] = []
    for number, name in enumerate(tables.domains):
        rows = (lists.domain == number) & (relevant_B > 0)
        if rows.any():
            recalls_of[name] = recall(hit_BC[rows], relevant_B[rows], CANDIDATES_AT)
            gains[name] = ndcg(hit_BC[rows], relevant_B[rows], CANDIDATES_AT)
            users = lists.user_row[rows]
            parts.append(_kept("candidates", users, number, hit_BC[rows], relevant_B[rows], (CANDIDATES_AT,)))
    row = {
        "recall_candidates": {str(CANDIDATES_AT): over_domains(recalls_of)},
        f"ndcg_candidates@{CANDIDATES_AT}": over_domains(gains),
    }
    return row, _concatenated(parts)


def _kept(
    kind: str, user: NDArray[Any], domain: int, hit_BK: NDArray[np.bool_], relevant_B: NDArray[Any], at: tuple[int, ...]
) -> Predictions:
    """What each list is worth."""
    worth = {f"{kind}.recall@{k}": recalls(hit_BK, relevant_B, k).astype(np.float32) for k in at}
    worth[f"{kind}.ndcg@10"] = ndcgs(hit_BK, relevant_B, 10).astype(np.float32)
    return {f"{kind}.user": user.astype(np.int32), f"{kind}.domain": np.full(len(user), domain, dtype=np.int16), **worth}


def _concatenated(parts: list[Predictions]) -> Predictions:
    return {name: np.concatenate([one[name] for one in parts]) for name in (parts[0] if parts else ())}


def _positive_keys(tables: Tables, split: str) -> NDArray[np.int64]:
    kept = tables.column(split, "label") > 0
    return _keys(tables, *(tables.column(split, name)[kept] for name in ("user_row", "domain", "ad_row")))


def _keys(tables: Tables, user: NDArray[Any], domain: NDArray[Any], ad: NDArray[Any]) -> NDArray[np.int64]:
    """One number a (user, domain, ad)."""
    wide = user.astype(np.int64) * len(tables.domains) + domain
    return np.asarray(wide * len(tables.ads) + ad)
