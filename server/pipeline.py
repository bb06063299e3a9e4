"""One request through its stages, timed and budgeted from outside.

Models run on the event loop: a request computes for a few milliseconds, a hop to a thread and back costs a tenth of one
and lets threads of one process fight over the interpreter lock. Requests whose rows came together are retrieved and then
ranked together (together.py). Parallelism comes from workers, one a core. What must not block the loop (bundle loading)
has a thread of its own (swap.py).

The ladder, each rung named in `degraded`:
    sticky     what sticky experiments remember could not be read: the hash chose the arms
    recipe     the arm's recipe has no bundle here: the champion's answers
    features   the user's row could not be read: the stranger's formula
    popular    nothing retrieved: the domain's popular ads
    rank       the ranker failed: retrieval order
    caps       what the user has seen could not be read: nothing is capped
    explore    the arm draws its slates (exploration.py), and this one was not: the ranked slate
    interleave one of two recipes to interleave failed, was late or degraded: the other's slate
    deadline   the caller's time was up before its turn to be ranked: retrieval order
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from contracts.errors import WorkFailed
from contracts.keys import user_row
from server import features, stages
from server.ads import AdsToday
from server.bundle import Bundle, DomainModel
from server.device import Device
from server.errors import Problem
from server.metrics import Metrics
from server.redis_door import RowReader, RowUnavailable
from server.stages import Barred, Work
from server.together import Meeting, Together

_log = logging.getLogger("mdrec.server")

_HYDRATE_SHARE = 0.5  # of the caller's remaining time: the rest must still fit retrieval


@dataclass(slots=True)
class RowAhead:
    """A user row asked for before it was sure which bundle answers."""

    key: str
    data: asyncio.Task[bytes | None]


@dataclass(slots=True)
class Question:
    """One request after parsing. deadline: perf_counter() seconds, infinite when the caller named none; ahead: its row, if
    that is on its way; capped: ads that this user is not shown again."""

    user_id: str
    domain: str
    k: int
    context: Mapping[str, Any]
    excluded: Sequence[str] = ()
    started: float = field(default_factory=perf_counter)
    deadline: float = math.inf
    ahead: RowAhead | None = None
    capped: Sequence[str] = ()


class Stopwatch:
    """The outer runner's clock: `with watch("rank"):` adds to the request's timings and to the stage histogram."""

    __slots__ = ("_domain", "_metrics", "_name", "_recipe", "_since", "started", "timings_ms")

    def __init__(self, metrics: Metrics, domain: str, recipe: str, started: float) -> None:
        self._metrics, self._domain, self._recipe, self.started = metrics, domain, recipe, started
        self.timings_ms: dict[str, float] = {}

    def __call__(self, stage: str) -> Stopwatch:
        self._name = stage
        return self

    def __enter__(self) -> None:
        self._since = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        seconds = perf_counter() - self._since
        self.timings_ms[self._name] = self.timings_ms.get(self._name, 0.0) + seconds * 1e3
        self._metrics.stage(self._name, self._domain, self._recipe, seconds)

    def total(self) -> dict[str, float]:
        """The timings, and the whole of them up to now, which is the answer's in the histogram."""
        seconds = perf_counter() - self.started
        self._metrics.answer(self._domain, self._recipe, seconds)
        whole = seconds * 1e3
        return {**{name: round(value, 4) for name, value in self.timings_ms.items()}, "total": round(whole, 4)}


class Pipeline:
    """The stages, their budgets and their ladder."""

    def __init__(
        self,
        rows: RowReader,
        ads: AdsToday,
        metrics: Metrics,
        redis_timeout_ms: float,
        retrieve_k: int,
        device: Device | None = None,
    ) -> None:
        self._together: Together = device or Meeting(metrics.together)
        self._on_device = device is not None
        self._rows, self._ads = rows, ads
        self._metrics = metrics
        self._redis_seconds = redis_timeout_ms / 1000
        self._retrieve_k = retrieve_k

    async def recommend(self, bundle: Bundle, question: Question, retrieve_k: int | None = None) -> tuple[Work, Stopwatch]:
        """Retrieve, rank and choose. Only bad input raises; everything else answers from a lower rung."""
        domain = self._ads.applied(bundle, domain_of(bundle, question.domain))
        work = Work(bundle, domain, question.user_id, question.context)
        watch = Stopwatch(self._metrics, domain.name, bundle.recipe, question.started)
        with watch("hydrate"):
            await self._hydrate(work, question)
        await self._answer(work, watch, question, retrieve_k or self._retrieve_k)
        self._count(work)
        return work, watch

    async def score(self, bundle: Bundle, question: Question, ad_ids: Sequence[str]) -> tuple[Work, Stopwatch]:
        """Rank the known ones of the given ads, in the order given."""
        domain = self._ads.applied(bundle, domain_of(bundle, question.domain))
        work = Work(bundle, domain, question.user_id, question.context)
        watch = Stopwatch(self._metrics, domain.name, bundle.recipe, question.started)
        with watch("hydrate"):
            await self._hydrate(work, question)
        with watch("encode"):
            stages.encode(work)
        work.rows = stages.known_rows(domain, ad_ids)
        work.retrieval_scores = np.full(len(work.rows), np.nan, dtype=np.float32)
        with watch("rank"):
            await self._rank(work, question.deadline)
            if work.p_click is None and len(work.rows):
                stages.inner_products(work)
                stages.keep_retrieval_order(work)
        self._count(work)
        return work, watch

    def rehearse(self, bundle: Bundle) -> None:
        """Answer once in every domain before a bundle takes traffic: sessions warm, and each domain can answer.
        Raises WorkFailed naming the domain that cannot."""
        for name, domain in bundle.domains.items():
            self._ads.applied(bundle, domain)  # its view of today, made here and not in a request
            work = Work(bundle, domain, "", {})
            work.row = features.stranger(bundle, "")
            stages.encode(work)
            stages.retrieve(work, self._retrieve_k, stages.known_rows(domain, []))
            if not len(work.rows) and domain.ads.inactive < len(domain.ads):
                raise WorkFailed(f"domain {name!r} of {bundle.bundle_id} retrieves nothing", "rebuild the bundle")
            if bundle.ranker is not None and len(work.rows):
                stages.rank(work)

    def ahead(self, bundle: Bundle, user_id: str, deadline: float) -> RowAhead:
        """Ask for the row now, for a bundle that will probably answer."""
        key = user_row(bundle.manifest.namespace, user_id)
        return RowAhead(key, asyncio.create_task(self._rows.get(key, self.budget(deadline)), name="row-ahead"))

    async def _hydrate(self, work: Work, question: Question) -> None:
        key = user_row(work.bundle.manifest.namespace, work.user_id)
        ahead = question.ahead
        try:
            if ahead is not None and ahead.key == key:
                data = await ahead.data
            else:
                if ahead is not None:
                    ahead.data.cancel()
                data = await self._rows.get(key, self.budget(question.deadline))
            work.row = features.read_row(work.bundle, data) if data is not None else None
        except RowUnavailable:
            work.degraded.append("features")
        except ValueError as error:  # bytes that are no row of this bundle
            _log.error("user row under %r is unreadable: %s", key, error)
            work.degraded.append("features")
        if work.row is None:
            work.stranger = True
            work.row = features.stranger(work.bundle, work.user_id)

    def budget(self, deadline: float) -> float:
        """Seconds for a read of Redis."""
        return min(self._redis_seconds, max((deadline - perf_counter()) * _HYDRATE_SHARE, 0.0))

    async def _answer(self, work: Work, watch: Stopwatch, question: Question, retrieve_k: int) -> None:
        count = max(retrieve_k, question.k)
        barred = Barred.of(work.domain, question.excluded, question.capped)
        with watch("encode"):
            stages.encode(work)
        with watch("retrieve"):
            asked = self._together.do(("retrieve", id(work.domain)), stages.retrieve_together, (work, count, barred.rows))
            await self._attempt("popular", work, asked)
        with watch("filter"):
            stages.filter_ads(work, count, barred)
        if not len(work.rows):
            self._fall_to_popular(work, watch, barred, count)
        with watch("rank"):
            await self._rank(work, question.deadline)
        with watch("select"):
            stages.select(work, question.k)

    def _fall_to_popular(self, work: Work, watch: Stopwatch, barred: Barred, count: int) -> None:
        if "popular" not in work.degraded:
            work.degraded.append("popular")
        with watch("retrieve"):
            stages.popular(work)
        with watch("filter"):
            stages.filter_ads(work, count, barred)

    async def _rank(self, work: Work, deadline: float) -> None:
        if work.bundle.ranker is not None and len(work.rows):
            rank, among = (_rank_at_once, work.domain.number) if self._on_device else (_rank_in_time, None)
            await self._attempt("rank", work, self._together.do(("rank", id(work.bundle), among), rank, (work, deadline)))
            if work.p_click is None and "rank" not in work.degraded:
                work.degraded.append("deadline")
        if work.p_click is None:
            stages.keep_retrieval_order(work)

    async def _attempt(self, rung: str, work: Work, stage: Awaitable[None]) -> None:
        """Run a stage that has a rung below it. Whatever a model or an index raises, the request is still answered."""
        try:
            await stage
        except Exception:
            _log.exception("no %s in domain %r of %s", rung, work.domain.name, work.bundle.bundle_id)
            work.degraded.append(rung)

    def _count(self, work: Work) -> None:
        for rung in work.degraded:
            self._metrics.degraded.labels(rung, work.domain.name).inc()
        for reason, (rows, _) in work.dropped.items():
            self._metrics.dropped.labels(reason, work.domain.name).inc(len(rows))


def _rank_in_time(asked: Sequence[tuple[Work, float]]) -> None:
    """One after the other, for a user's work is done once; not those whose deadline has passed when their turn comes."""
    for work, deadline in asked:
        if perf_counter() <= deadline:
            stages.rank(work)


def _rank_at_once(asked: Sequence[tuple[Work, float]]) -> None:
    """On a GPU, where candidates of several requests cost hardly more than those of one."""
    works = [work for work, deadline in asked if perf_counter() <= deadline]
    if works:
        stages.rank_at_once(works)


def domain_of(bundle: Bundle, name: str) -> DomainModel:
    """Raises a 422 that names the known domains."""
    domain = bundle.domains.get(name)
    if domain is None:
        known = list(bundle.domains)
        detail = f"domain {name!r} is unknown; known: {', '.join(known)}"
        raise Problem(422, "unknown-domain", detail, field="domain", known=known)
    return domain
