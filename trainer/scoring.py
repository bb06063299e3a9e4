"""What a model says about a split: a ranker's logits, a retriever's ranked lists over every ad of a domain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.batches import with_negatives
from trainer.layers import Inputs, Ranker
from trainer.metrics import auc, recall
from trainer.tables import Batch, Candidates, Tables
from trainer.tabulate import SPLITS
from trainer.two_tower import Retriever
from trainer.two_tower import device_of as device_of

SCORE_ROWS = 8_192
_LIST_USERS = 512
_VALID_NEGATIVES = 20
_VALID_SEED = 7
_OF_EACH_CLASS = 20
Serve = Callable[[Batch], Inputs]


class Scored(NamedTuple):
    """(B,) each, in the order of the split (negatives after their positives, chunk by chunk)."""

    logit: NDArray[np.float32]
    label: NDArray[np.float32]
    domain: NDArray[np.int64]
    user_row: NDArray[np.int64]
    ad_row: NDArray[np.int64]


@torch.no_grad()
def score_split(model: Ranker, tables: Tables, split: str, serve: Serve | None = None) -> Scored:
    """serve: what a server would hand the model (by default the model's own memory). Positives-only data are scored against
    20 uniform negatives each, the same for every model."""
    model.eval()
    where = device_of(model)
    serve = serve or model.serving_inputs
    rng = np.random.default_rng(_VALID_SEED)
    parts: list[tuple[Any, ...]] = []
    for start in range(0, tables.split_size(split), SCORE_ROWS):
        batch = tables.batch(split, np.arange(start, min(start + SCORE_ROWS, tables.split_size(split))))
        if tables.positives_only:
            batch = with_negatives(tables, batch, _VALID_NEGATIVES, rng)
        batch = batch.to(where)
        found = (model.calibrated(serve(batch)), batch.label, batch.inputs.domain, batch.user_row, batch.ad_row)
        parts.append(tuple(one.cpu().numpy() for one in found))
    if not parts:
        parts.append(tuple(np.empty(0, dtype=kind) for kind in (np.float32, np.float32, np.int64, np.int64, np.int64)))
    return Scored(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def mean_auc(model: Ranker, tables: Tables, split: str) -> float | None:
    """Mean over the domains with at least 20 rows of each class, whose AUC is more than noise; where no domain has them, over
    those with both classes; None when none has."""
    scored = score_split(model, tables, split)
    found: dict[int, list[float]] = {_OF_EACH_CLASS: [], 1: []}
    for domain in range(len(tables.domains)):
        label, logit = scored.label[scored.domain == domain], scored.logit[scored.domain == domain]
        smaller = min(int((label > 0).sum()), int((label <= 0).sum()))
        for needed, values in found.items():
            if smaller >= needed:
                values.append(auc(label, logit))
    values = found[_OF_EACH_CLASS] or found[1]
    return float(np.mean(values)) if values else None


class Lists(NamedTuple):
    """One domain's ranked lists. user_row: (U,); top: (U, K) ad rows, best first, -1 after the last; hit: (U, K) whether the ad
    is one the user took; relevant: (U,) how many those are."""

    user_row: NDArray[np.int64]
    top: NDArray[np.int64]
    hit: NDArray[np.bool_]
    relevant: NDArray[np.int64]


@torch.no_grad()
def ranked_lists(model: Retriever, tables: Tables, split: str, domain: int, depth: int) -> Lists | None:
    """Every eligible ad of the domain ranked for every user with a positive there; positives of (user, domain) in the splits
    before are masked and not counted as relevant. None when nobody is left."""
    truth = _positives(tables, split, domain)
    known = np.unique(np.concatenate([_positives(tables, one, domain) for one in SPLITS[: SPLITS.index(split)]]))
    truth = np.setdiff1d(truth, known)
    if len(truth) == 0:
        return None
    ads = tables.eligible(domain).astype(np.int64)
    total = len(tables.ads)
    users, relevant = np.unique(truth // total, return_counts=True)
    model.eval()
    score = model.scorer(tables, ads, domain)
    depth = min(depth, len(ads))
    tops = []
    for start in range(0, len(users), _LIST_USERS):
        part = users[start : start + _LIST_USERS]
        score_BA = score(part)
        low, high = np.searchsorted(known, [part[0] * total, (part[-1] + 1) * total])
        pairs = known[low:high]
        pairs = pairs[np.isin(pairs // total, part)]
        column = np.searchsorted(ads, pairs % total)
        inside = (column < len(ads)) & (ads[np.minimum(column, len(ads) - 1)] == pairs % total) if len(ads) else column < 0
        rows, columns = np.searchsorted(part, pairs[inside] // total), column[inside]
        score_BA[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
        best_BK, order_BK = torch.topk(score_BA, depth, dim=1)
        tops.append(np.where(torch.isinf(best_BK).cpu().numpy(), -1, ads[order_BK.cpu().numpy()]))
    top = np.concatenate(tops)
    hit = np.isin(users[:, None] * total + top, truth) & (top >= 0)
    return Lists(users, top, hit, relevant)


def mean_recall(model: Retriever, tables: Tables, split: str, k: int) -> float | None:
    """Mean over the domains with positives; None when none has any. Where k is more than a tenth of a domain's ads, that tenth
    stands in for it: anyone finds all of them in a list of all of them."""
    found = []
    for domain in range(len(tables.domains)):
        depth = min(k, max(1, len(tables.eligible(domain)) // 10))
        lists = ranked_lists(model, tables, split, domain, depth)
        if lists is not None:
            found.append(recall(lists.hit, lists.relevant, depth))
    return float(np.mean(found)) if found else None


def _positives(tables: Tables, split: str, domain: int) -> NDArray[np.int64]:
    """Distinct positive pairs of a domain as user_row * ads + ad_row, sorted."""
    rows = tables.domain_range(split, domain)
    part = slice(rows.start, rows.stop)
    kept = tables.column(split, "label")[part] > 0
    user, ad = (tables.column(split, name)[part][kept].astype(np.int64) for name in ("user_row", "ad_row"))
    return np.unique(user * len(tables.ads) + ad)


@torch.no_grad()
def listed_scores(
    model: Ranker | Retriever, tables: Tables, lists: Candidates, serve: Serve | None = None
) -> NDArray[np.float32]:
    """(n, C): the score of every listed ad, 0 after a list's end. A ranker sees no context here: the lists have none."""
    model.eval()
    score_BC = np.zeros(lists.ads.shape, dtype=np.float32)
    known_BC = np.maximum(lists.ads, 0).astype(np.int64)
    for domain in range(len(tables.domains)):
        rows = np.flatnonzero(lists.domain == domain)
        if isinstance(model, Ranker):
            score: Any = partial(_listed_by_ranker, model, tables, domain, serve)
        else:
            score = _listed_by_retriever(model, tables, domain, known_BC[rows])
        for start in range(0, len(rows), _LIST_USERS):
            part = rows[start : start + _LIST_USERS]
            score_BC[part] = score(lists.user_row[part].astype(np.int64), known_BC[part])
    return np.where(lists.ads >= 0, score_BC, np.float32(0))


def _listed_by_retriever(model: Retriever, tables: Tables, domain: int, listed_BC: Any) -> Callable[[Any, Any], Any]:
    distinct = np.unique(listed_BC)
    score = model.scorer(tables, distinct, domain)
    return lambda user, ads: np.take_along_axis(score(user).cpu().numpy(), np.searchsorted(distinct, ads), axis=1)


def _listed_by_ranker(model: Ranker, tables: Tables, domain: int, serve: Serve | None, user: Any, ads: Any) -> Any:
    where = device_of(model)
    width = ads.shape[1]
    user_row, ad_row = np.repeat(user, width), ads.ravel()
    context = tables.schema.block("context")
    parts = []
    for start in range(0, len(ad_row), SCORE_ROWS):
        piece = slice(start, start + SCORE_ROWS)
        rows = len(ad_row[piece])
        arrays = (
            *tables.user_block(user_row[piece], domain),
            np.zeros((rows, context.code_width), dtype=np.int32),
            np.zeros((rows, context.dense_width), dtype=np.float32),
            *tables.ad_block(ad_row[piece], domain),
            np.full(rows, domain, dtype=np.int64),
        )
        nothing = torch.zeros(rows)
        rows_of = (torch.from_numpy(user_row[piece]), torch.from_numpy(ad_row[piece]))
        batch = Batch(Inputs(*map(torch.from_numpy, arrays)), nothing, *rows_of, nothing.long()).to(where)
        parts.append(model.calibrated((serve or model.serving_inputs)(batch)).cpu().numpy())
    return np.concatenate(parts).reshape(ads.shape)
