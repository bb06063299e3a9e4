"""The stages of one request, one verb each, over one Work that they fill in turn:

    hydrate -> encode -> retrieve -> filter -> rank -> select

Stages know nothing of HTTP, time or metrics; the runner in pipeline.py times them and steps down the ladder when one
fails. C candidates, A ads of the domain, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.errors import WorkFailed
from contracts.user_row import UserRow
from indexer.index import Found
from server.bundle import Bundle, DomainModel
from server.features import encode_context, served_vectors
from server.inference import F32, Feeds, Graph

# Ads that may not be shown are dropped after a search for as many more, while they are at most this share of what is wanted;
# where they are more, the search passes over them. k = 500, ms, plain / dropped / passed over: 100k ads by IVF with 105 barred
# 1.89 / 1.97 / 1.94, with 1,012 1.88 / 2.87 / 2.03; 10k ads by exact search with 9 .24 / .23 / .27, with 488 .16 / .22 / .18.
_DROPPED_SHARE = 0.25

Rows = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class Work:
    """What one request knows so far. rows: (C,) surviving candidates in retrieval order; retrieval_scores: (C,), NaN
    for ads of the popular list; p_click: (C,), None when nothing ranked; rank_scores: (C,); chosen: positions among the
    candidates, best first; propensities: of a drawn slate, chance of each chosen one given those before it; dropped: what the
    filter took out, by reason; stranger: the user has no row."""

    bundle: Bundle
    domain: DomainModel
    user_id: str
    context: Mapping[str, Any]
    row: UserRow | None = None
    stranger: bool = False
    feeds: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    rows: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    retrieval_scores: F32 = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    p_click: F32 | None = None
    rank_scores: F32 = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    chosen: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    propensities: np.ndarray[Any, np.dtype[np.float64]] | None = None
    dropped: dict[str, tuple[Rows, F32]] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Barred:
    """Rows that one request may not be answered, beside what is inactive. rows: all of them, ascending; excluded: what the caller
    named; capped: what the user is not shown again (caps.py)."""

    rows: Rows
    excluded: Rows
    capped: Rows

    @classmethod
    def of(cls, domain: DomainModel, excluded: Sequence[str], capped: Sequence[str]) -> Barred:
        by_caller, by_cap = known_rows(domain, excluded), known_rows(domain, capped)
        return cls(np.unique(np.concatenate([by_caller, by_cap]) if len(by_cap) else by_caller), by_caller, by_cap)


def encode(work: Work) -> None:
    """Everything of the request that models read, the ads aside."""
    assert work.row is not None
    user_codes, user_dense = work.row.block(work.domain.number)
    context = encode_context(work.bundle, work.context)
    work.feeds = {
        "user_codes": user_codes,
        "user_dense": user_dense,
        "context_codes": context.codes,
        "context_dense": context.dense,
        "domain": np.array([work.domain.number], dtype=np.int64),
    }
    vectors = served_vectors(work.bundle, work.row)
    if vectors is not None:
        work.feeds["user_vectors"] = vectors


def retrieve(work: Work, count: int, excluded: Rows) -> None:
    """The domain's tower, then its index: what the filter leaves of it are the `count` ads of highest inner product that may be
    shown, or all of them where they are fewer."""
    retrieve_together([(work, count, excluded)])


def retrieve_together(asked: Sequence[tuple[Work, int, Rows]]) -> None:
    """As `retrieve`, for requests that met in one domain of one bundle: one run of its tower, one search without a mask."""
    domain, wide = asked[0][0].domain, []
    query_BE = domain.user_tower.run(_rows([work.feeds for work, _, _ in asked]))
    for number, (work, count, excluded) in enumerate(asked):
        barred = domain.ads.inactive + len(excluded)
        if barred <= _DROPPED_SHARE * count:
            wide.append((number, count + barred))
        else:
            _take(work, domain.index.search(query_BE[number : number + 1], count, _eligible(work, excluded)), 0, count)
    if wide:
        numbers = [number for number, _ in wide]
        found = domain.index.search(query_BE[numbers], max(most for _, most in wide))
        for place, (number, most) in enumerate(wide):
            _take(asked[number][0], found, place, most)


def _rows(feeds: Sequence[Feeds]) -> Feeds:
    return feeds[0] if len(feeds) == 1 else {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


def _take(work: Work, found: Found, place: int, most: int) -> None:
    rows, scores = found.rows[place, :most], found.scores[place, :most]
    real = rows >= 0
    work.rows, work.retrieval_scores = rows[real], scores[real]


def popular(work: Work) -> None:
    """The bundle's popular list of the domain, best first: the rung below retrieval."""
    work.rows = np.asarray(work.domain.ads.popular, dtype=np.int64)
    work.retrieval_scores = np.full(len(work.rows), np.nan, dtype=np.float32)


def filter_ads(work: Work, count: int, barred: Barred) -> None:
    """Drop ads that may not be shown and remember which and why; keep the first `count`."""
    active = work.domain.ads.active[work.rows]
    _drop(work, "inactive", ~active)
    for reason, rows in (("excluded", barred.excluded), ("capped", barred.capped)):
        if len(rows) and len(work.rows):
            _drop(work, reason, np.isin(work.rows, rows))
    work.rows, work.retrieval_scores = work.rows[:count], work.retrieval_scores[:count]


def rank(work: Work) -> None:
    """rank_score = p_click * bid. Raises WorkFailed when the ranker gives what is not a probability."""
    assert work.bundle.ranker is not None
    _accept(work, work.bundle.ranker.run(_candidates(work)))


def rank_at_once(works: Sequence[Work]) -> None:
    """As `rank`, for requests of one domain of one bundle: in one run where the ranker is a graph that takes several."""
    ranker = works[0].bundle.ranker
    if len(works) > 1 and isinstance(ranker, Graph) and ranker.takes_requests:
        found = ranker.run_requests([_candidates(work) for work in works], [len(work.rows) for work in works])
        for work, p_click in zip(works, found, strict=True):
            _accept(work, p_click)
    else:
        for work in works:
            rank(work)


def _candidates(work: Work) -> Feeds:
    ads = work.domain.ads
    return {**work.feeds, "ad_codes": ads.codes[work.rows], "ad_dense": ads.dense[work.rows]}


def _accept(work: Work, p_click: F32) -> None:
    if p_click.shape != work.rows.shape or not np.isfinite(p_click).all():
        raise WorkFailed(f"ranker of {work.bundle.bundle_id} gave {p_click.shape} values, some perhaps not finite")
    work.p_click = p_click
    work.rank_scores = p_click * work.domain.ads.bid[work.rows]


def keep_retrieval_order(work: Work) -> None:
    """Without a ranker's answer the retrieval score is the rank score; popular ads have none and keep their order."""
    work.rank_scores = np.nan_to_num(work.retrieval_scores, nan=0.0)


def inner_products(work: Work) -> None:
    """Retrieval scores of given rows: what search would have said of them."""
    ads = work.domain.ads
    query_1E = work.domain.user_tower.run(work.feeds)
    ads_CE = work.domain.ad_tower.run({"ad_codes": ads.codes[work.rows], "ad_dense": ads.dense[work.rows]})
    work.retrieval_scores = ads_CE @ query_1E[0]


def select(work: Work, k: int) -> None:
    """The k best by rank score; equal ones in retrieval order."""
    work.chosen = np.argsort(-work.rank_scores, kind="stable")[:k]


def known_rows(domain: DomainModel, ad_ids: Sequence[str]) -> Rows:
    """Rows of those ads that the domain has, in the order given."""
    if not ad_ids:
        return np.zeros(0, dtype=np.int64)
    rows = domain.ads.ids.find(ad_ids)
    return rows[rows >= 0]


def _eligible(work: Work, excluded: Rows) -> Bools:
    """(A,) the ads that a search may return at all."""
    mask = np.array(work.domain.ads.active)
    mask[excluded] = False
    return mask


def _drop(work: Work, reason: str, mask: Bools) -> None:
    if not mask.any():
        return
    work.dropped[reason] = (work.rows[mask], work.retrieval_scores[mask])
    work.rows, work.retrieval_scores = work.rows[~mask], work.retrieval_scores[~mask]
