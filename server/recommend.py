"""The two hot routes and their records: /v1/recommend, /v1/score, /v1/requests/{request_id}.

Bodies are parsed by pydantic straight from bytes and answers written by msgspec, at the edge (edge.py): FastAPI's own parsing and
validation of answers would cost more than the search does. Its routes and models still define OpenAPI (openapi.py).
"""

from __future__ import annotations

import math
import random
import time
from time import perf_counter
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from abtest.assign import Routing, seen
from contracts.keys import request_record
from server import api, caps, interleave
from server.bundle import Bundle
from server.edge import Answer
from server.errors import Problem, overloaded
from server.exploration import RUNG, explore
from server.exposures import Drawn, Shown
from server.gateway import Gateway
from server.openapi import body_of, problems
from server.pipeline import Question, Stopwatch, domain_of
from server.redis_door import FAILURES, get
from server.stages import Work

JSON = "application/json"
RECOMMEND, SCORE = "/v1/recommend", "/v1/score"


def hot(gateway: Gateway) -> dict[str, Answer]:
    """What the edge answers itself, by path."""

    async def recommend(body: bytes) -> bytes:
        started = perf_counter()
        asked = api.RecommendRequest.model_validate_json(body)
        async with gateway.permits.of(asked.domain):
            deadline = _deadline(started, asked.deadline_ms)
            question = Question(asked.user_id, asked.domain, asked.k, asked.context, asked.exclude_ad_ids, started, deadline)
            bundle, routing, degraded = await _route(gateway, question)
            if asked.domain in gateway.caps.domains:
                await _cap(gateway, asked, question, bundle, degraded)
            if routing.interleaving is not None:
                return await _interleaved(gateway, asked, question, bundle, routing, degraded)
            try:
                work, watch = await gateway.pipeline.recommend(bundle, question, _retrieve_k(routing))
            except Exception as error:
                gateway.trials.failed(asked.domain, routing.arms, error)
                raise
        if "explore" in routing.params:
            asked.request_id = asked.request_id or uuid4().hex
            explore(work, routing.params, asked.k, asked.request_id, asked.user_id)
            if work.propensities is None:
                gateway.metrics.degraded.labels(RUNG, asked.domain).inc()
        answer = _answer(asked, work, watch, _arms(routing, bundle), degraded)
        shown = await _remember(gateway, asked, answer, work)
        content = msgspec.json.encode(answer)
        gateway.exposures.put(shown)  # what cannot be written as JSON has failed by now, and does not stop the writer behind it
        if asked.domain in gateway.trials.domains:
            gateway.trials.answered(asked, routing.arms, work, answer)
        return content

    async def score(body: bytes) -> bytes:
        started = perf_counter()
        asked = api.ScoreRequest.model_validate_json(body)
        async with gateway.permits.of(asked.domain):
            question = Question(
                asked.user_id, asked.domain, len(asked.ad_ids), asked.context, (), started, _deadline(started, asked.deadline_ms)
            )
            bundle, routing, degraded = await _route(gateway, question)
            try:
                work, watch = await gateway.pipeline.score(bundle, question, asked.ad_ids)
            except Exception as error:
                gateway.trials.failed(asked.domain, routing.arms, error)
                raise
        return msgspec.json.encode(_scores(asked, work, watch, _arms(routing, bundle), degraded))

    return {RECOMMEND: recommend, SCORE: score}


def router(gateway: Gateway) -> APIRouter:
    routes, answers = APIRouter(tags=["serving"]), hot(gateway)

    @routes.post(
        RECOMMEND,
        response_model=api.RecommendAnswer | api.InterleavedAnswer,
        openapi_extra=body_of(api.RecommendRequest),
        responses=problems(400, 413, 422, 503),
    )
    async def recommend(request: Request) -> Response:
        """The best ads of one domain for one user."""
        return Response(await answers[RECOMMEND](await request.body()), media_type=JSON)

    @routes.post(
        SCORE,
        response_model=api.ScoreAnswer,
        openapi_extra=body_of(api.ScoreRequest),
        responses=problems(400, 413, 422, 503),
    )
    async def score(request: Request) -> Response:
        """What given ads are worth to one user in one domain, in the order asked."""
        return Response(await answers[SCORE](await request.body()), media_type=JSON)

    @routes.get("/v1/requests/{request_id:path}", response_model=api.DecisionRecord, responses=problems(404, 503))
    async def request_by_id(request_id: str) -> Response:
        """The decision record of a request sent with `explain: true` (or sampled): every candidate, and where and why it left."""
        try:
            data = await get(gateway.redis, request_record(request_id))
        except FAILURES as error:
            detail = f"decision records are unreachable: {error}"
            raise overloaded("redis-gone", detail, gateway.settings.retry_after_seconds) from None
        if data is None or msgspec.json.decode(data).get("kind") == "facts":
            detail = f"request {request_id!r} has no decision record; send `explain: true` to keep one"
            raise Problem(404, "no-record", detail)
        return Response(data, media_type=JSON)

    return routes


async def _route(gateway: Gateway, question: Question) -> tuple[Bundle, Routing, list[str]]:
    """Assign, then pin: (the bundle that answers, the arms, rungs already taken)."""
    domain, degraded = question.domain, []
    routing = gateway.experiments.route(question.user_id, domain, question.context)
    bundle, fell_back = gateway.registry.live.choose(routing.recipe, domain, routing.bundle)
    domain_of(bundle, domain)
    units = gateway.experiments.remembers(seen(question.user_id, domain, question.context))
    if units:
        question.ahead = gateway.pipeline.ahead(bundle, question.user_id, question.deadline)  # the hash is seldom overruled
        memory = await gateway.sticky.recall(units, gateway.pipeline.budget(question.deadline))
        if memory is None:
            degraded.append("sticky")
            gateway.metrics.degraded.labels("sticky", domain).inc()
        else:
            routing = gateway.experiments.route(question.user_id, domain, question.context, memory)
            bundle, fell_back = gateway.registry.live.choose(routing.recipe, domain, routing.bundle)
            domain_of(bundle, domain)
        if routing.kept:
            gateway.background(gateway.sticky.keep(routing.kept), "sticky")
    if fell_back:
        degraded.append("recipe")
        gateway.metrics.degraded.labels("recipe", domain).inc()
    for one in routing.arms:
        gateway.metrics.exposures.labels(one.experiment, one.arm, domain).inc()
    return bundle, routing, degraded


async def _interleaved(
    gateway: Gateway, asked: api.RecommendRequest, question: Question, bundle: Bundle, routing: Routing, degraded: list[str]
) -> bytes:
    """The slates of the arm's two recipes as one, or the one that stands alone."""
    assert routing.interleaving is not None
    asked.request_id = asked.request_id or uuid4().hex  # both slates are of this request, and its coins
    live, recipes = gateway.registry.live, routing.interleaving.recipes
    slates = await interleave.slates(gateway.pipeline, live, bundle, question, recipes, _retrieve_k(routing))
    works = [work for work, _ in slates]
    answers = [_answer(asked, work, watch, _arms(routing, work.bundle), degraded) for work, watch in slates]
    if len(answers) == 1:
        answer, other = answers[0], None
        answer.degraded.append(interleave.RUNG)
        gateway.metrics.degraded.labels(interleave.RUNG, question.domain).inc()
    else:
        other, both = works[1], ((answers[0], works[0]), (answers[1], works[1]))
        answer = interleave.merged(routing.interleaving, asked.user_id, asked.k, both)
    shown = await _remember(gateway, asked, answer, works[0], other)
    content = msgspec.json.encode(answer)
    gateway.exposures.put(shown)
    return content


async def _cap(gateway: Gateway, asked: api.RecommendRequest, question: Question, bundle: Bundle, degraded: list[str]) -> None:
    """What this user is not shown again leaves the question, and what is made again of the request later (shadows, replay)."""
    budget = gateway.pipeline.budget(question.deadline)
    question.ahead = question.ahead or gateway.pipeline.ahead(bundle, question.user_id, question.deadline)  # in one round trip
    capped = await gateway.caps.barred(asked.user_id, asked.domain, budget)
    if capped is None:
        degraded.append(caps.RUNG)
        gateway.metrics.degraded.labels(caps.RUNG, asked.domain).inc()
    elif capped:
        question.capped = capped
        asked.exclude_ad_ids = [*asked.exclude_ad_ids, *capped]


def _retrieve_k(routing: Routing) -> int | None:
    """An arm may change how many candidates the ranker sees."""
    wanted = routing.params.get("retrieve_k")
    return wanted if isinstance(wanted, int) and 1 <= wanted <= 10_000 else None


def _arms(routing: Routing, bundle: Bundle) -> list[api.Arm]:
    return [api.Arm(one.experiment, one.arm, one.recipe or bundle.recipe) for one in routing.arms]


def _deadline(started: float, deadline_ms: float | None) -> float:
    return math.inf if deadline_ms is None else started + deadline_ms / 1000


def _answer(
    asked: api.RecommendRequest, work: Work, watch: Stopwatch, arms: list[api.Arm], degraded: list[str]
) -> api.RecommendAnswer:
    chosen = work.chosen
    rows = work.rows[chosen]
    p_click = [None] * len(chosen) if work.p_click is None else work.p_click[chosen].tolist()
    values = zip(
        work.domain.ads.ids.take(rows),
        p_click,
        work.rank_scores[chosen].tolist(),
        _finite(work.retrieval_scores[chosen].tolist()),
        work.domain.ads.bid[rows].tolist(),
        strict=True,
    )
    ads = [
        api.RecommendedAd(ad_id, position, clicks, rank_score, retrieval_score, bid)
        for position, (ad_id, clicks, rank_score, retrieval_score, bid) in enumerate(values)
    ]
    request_id = asked.request_id or uuid4().hex
    return api.RecommendAnswer(
        request_id, work.domain.name, work.bundle.bundle_id, arms, ads, degraded + work.degraded, watch.total()
    )


def _scores(asked: api.ScoreRequest, work: Work, watch: Stopwatch, arms: list[api.Arm], degraded: list[str]) -> api.ScoreAnswer:
    found = work.domain.ads.ids.find(asked.ad_ids)
    known = [ad_id for ad_id, row in zip(asked.ad_ids, found, strict=True) if row >= 0]
    unknown = [ad_id for ad_id, row in zip(asked.ad_ids, found, strict=True) if row < 0]
    p_click = [None] * len(known) if work.p_click is None else work.p_click.tolist()
    scores = [api.ScoredAd(*values) for values in zip(known, p_click, work.rank_scores.tolist(), strict=True)]
    request_id = asked.request_id or uuid4().hex
    return api.ScoreAnswer(
        request_id,
        work.domain.name,
        work.bundle.bundle_id,
        arms,
        scores,
        list(dict.fromkeys(unknown)),
        degraded + work.degraded,
        watch.total(),
    )


async def _remember(
    gateway: Gateway, asked: api.RecommendRequest, answer: api.RecommendAnswer, work: Work, other: Work | None = None
) -> Shown:
    """The exposure. An explained request's record is written now, so that it can be read once the answer is there. other: of the
    second recipe of an interleaved answer."""
    settings = gateway.settings
    now = time.time()
    shown = Shown(answer, now, asked.user_id, work.bundle.recipe, asked.context, work.stranger)
    if work.bundle.user_domain_encoder is not None:
        shown.facts_seconds = settings.fold_seconds
    if work.propensities is not None:
        shown.drawn = Drawn(work.propensities.tolist(), asked.exclude_ad_ids)
    if other is not None and other.bundle.user_domain_encoder is not None:
        shown.facts_seconds = settings.fold_seconds
    if asked.explain:
        record = msgspec.json.encode(_described(asked, answer, work, other, now))
        try:
            await gateway.redis.set(request_record(answer.request_id), record, ex=settings.record_seconds)
        except FAILURES:
            answer.degraded.append("record")
            gateway.metrics.degraded.labels("record", answer.domain).inc()
    elif settings.record_share and random.random() < settings.record_share:
        shown.record = (_described(asked, answer, work, other, now), settings.record_seconds)
    return shown


def _described(
    asked: api.RecommendRequest, answer: api.RecommendAnswer, work: Work, other: Work | None, now: float
) -> api.DecisionRecord:
    record = _record(asked, answer, work, now)
    if not isinstance(answer, api.InterleavedAnswer) or other is None:
        return record
    return interleave.record((record, _record(asked, answer, other, now)), answer)


def _record(asked: api.RecommendRequest, answer: api.RecommendAnswer, work: Work, now: float) -> api.DecisionRecord:
    """Survivors of the filter in retrieval order, then what the filter dropped."""
    ads = work.domain.ads
    position = {int(at): place for place, at in enumerate(work.chosen)}
    p_click = [None] * len(work.rows) if work.p_click is None else work.p_click.tolist()
    scores = _finite(work.retrieval_scores.tolist())
    left = f"below the top {asked.k}" if work.propensities is None else f"not drawn among the {asked.k}"
    candidates = [
        api.CandidateRecord(
            ad_id=ads.ids[int(row)],
            retrieval_rank=at,
            retrieval_score=scores[at],
            p_click=p_click[at],
            bid=float(ads.bid[row]),
            rank_score=float(work.rank_scores[at]),
            position=position.get(at),
            left_at=None if at in position else "select",
            reason=None if at in position else left,
        )
        for at, row in enumerate(work.rows)
    ]
    for reason, (rows, retrieval_scores) in work.dropped.items():
        for row, score in zip(rows, _finite(retrieval_scores.tolist()), strict=True):
            candidates.append(
                api.CandidateRecord(
                    ads.ids[int(row)], len(candidates), score, None, float(ads.bid[row]), None, None, "filter", reason
                )
            )
    return api.DecisionRecord(
        answer.request_id,
        now,
        asked.user_id,
        answer.domain,
        asked.k,
        asked.context,
        answer.bundle_id,
        work.bundle.recipe,
        answer.arms,
        answer.degraded,
        answer.timings_ms,
        candidates,
    )


def _finite(scores: list[float]) -> list[float | None]:
    return [None if score != score else score for score in scores]
