"""An arm that interleaves: two recipes answer, each from its own bundle, and their slates are served as one (team_draft.py).

    interleave     a rung of the ladder (pipeline.py): one of the two has no bundle here, failed, stepped down its own ladder
                   or came too late. The other's slate is served alone and nobody gets credit for it.

Both rows of the user are asked for at once; the second recipe begins when the first has ranked: an answer costs both. None
of this is reached by other requests.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from time import perf_counter

import numpy as np

from abtest.assign import Interleaving
from abtest.definitions import Definitions
from abtest.definitions import interleaved as pair_of
from abtest.team_draft import DEEP, Pick, coins, draft
from server import api
from server.bundle import Bundle
from server.pipeline import Pipeline, Question, Stopwatch
from server.stages import Work
from server.swap import Live

_log = logging.getLogger("mdrec.server")

RUNG = "interleave"
Slate = tuple[Work, Stopwatch]


async def slates(
    pipeline: Pipeline, live: Live, routed: Bundle, question: Question, recipes: tuple[str, str], retrieve_k: int | None
) -> list[Slate]:
    """Both slates in the order of `recipes`, or the only one that may be served. routed: who answers where neither recipe has a
    bundle. Raises what the last of them raises when none answers at all."""
    first, *others = _pinned(live, recipes, question.domain) or [routed]
    asked = [(first, question)]
    asked += [(one, replace(question, ahead=pipeline.ahead(one, question.user_id, question.deadline))) for one in others]
    found: list[Slate] = []
    failure: Exception | None = None
    for bundle, mine in asked:
        if found and mine.ahead is not None and perf_counter() > question.deadline:
            mine.ahead.data.cancel()
            break
        try:
            found.append(await pipeline.recommend(bundle, mine, retrieve_k))
        except Exception as error:
            _log.exception("no slate of %s in domain %r", bundle.bundle_id, question.domain)
            failure = error
    if not found:
        assert failure is not None
        raise failure
    whole = [slate for slate in found if not slate[0].degraded]
    return whole or [min(found, key=lambda slate: len(slate[0].degraded))]


def _pinned(live: Live, recipes: tuple[str, str], domain: str) -> list[Bundle]:
    """The recipes' own bundles, of one moment, where they serve the domain."""
    bundles = map(live.bundles.get, recipes)
    return [bundle for bundle in bundles if bundle is not None and domain in bundle.domains]


def merged(
    arm: Interleaving, user_id: str, k: int, both: tuple[tuple[api.RecommendAnswer, Work], tuple[api.RecommendAnswer, Work]]
) -> api.InterleavedAnswer:
    """both: what each recipe would have said alone, under the same request_id, and what it knew. Timings are those of both
    together."""
    (first, ours), (second, theirs) = both
    answers = first, second
    picks = draft((_ranking(ours, k), _ranking(theirs, k)), k, coins(arm.experiment, user_id, first.request_id))
    names = " & ".join(arm.recipes)
    return api.InterleavedAnswer(
        request_id=first.request_id,
        domain=first.domain,
        bundle_id=first.bundle_id,
        arms=[replace(one, recipe=names) if one.experiment == arm.experiment else one for one in first.arms],
        ads=[replace(answers[one.team].ads[one.rank], position=position) for position, one in enumerate(picks)],
        degraded=first.degraded,
        timings_ms={name: _together(name, spent, first.timings_ms) for name, spent in second.timings_ms.items()},
        interleaved=_credit(arm, (first.bundle_id, second.bundle_id), picks),
    )


def _ranking(work: Work, k: int) -> list[str]:
    """The recipe's slate of k ads and what it would have shown after it, as deep as the draft looks."""
    best = np.argsort(-work.rank_scores, kind="stable")[: DEEP * k]
    return work.domain.ads.ids.take(work.rows[best])


def _together(stage: str, spent: float, first: dict[str, float]) -> float:
    """The second one's total began with the request, as the first's did."""
    return spent if stage == "total" else round(first.get(stage, 0.0) + spent, 4)


def _credit(arm: Interleaving, bundle_ids: tuple[str, str], picks: list[Pick[str]]) -> api.Interleaved:
    return api.Interleaved(
        experiment=arm.experiment,
        arm=arm.arm,
        recipes=list(arm.recipes),
        bundle_ids=list(bundle_ids),
        teams=[one.team for one in picks],
        counts=[one.counts for one in picks],
        weights=[one.weight for one in picks],
    )


def record(records: tuple[api.DecisionRecord, api.DecisionRecord], answer: api.InterleavedAnswer) -> api.DecisionRecord:
    """Of both recipes' decision records, one: every candidate of either, and where it left."""
    served = {ad.ad_id: (ad.position, team) for ad, team in zip(answer.ads, answer.interleaved.teams, strict=True)}
    names = answer.interleaved.recipes
    candidates: list[api.CandidateRecord] = []
    for team, one in enumerate(records):
        for candidate in one.candidates:
            position, left_at, reason = None, candidate.left_at, candidate.reason
            at, by = served.get(candidate.ad_id, (None, None))
            if by == team:
                position, left_at, reason = at, None, None
            elif candidate.position is not None:
                why = "not picked" if at is None else f"picked by {names[1 - team]}"
                left_at, reason = RUNG, f"position {candidate.position} of {names[team]}, {why}"
            candidates.append(
                api.InterleavedCandidate(
                    candidate.ad_id, candidate.retrieval_rank, candidate.retrieval_score, candidate.p_click, candidate.bid,
                    candidate.rank_score, position, left_at, reason, names[team],
                )
            )  # fmt: skip
    return replace(records[0], recipe=" & ".join(names), timings_ms=answer.timings_ms, candidates=candidates)


def problems(definitions: Definitions, live: Live) -> list[str]:
    """Why running experiments cannot interleave here; empty when all can."""
    return [
        f"recipe {recipe!r}, which experiment {key!r} interleaves, has no bundle in service"
        for key, rule in definitions.experiments().items()
        if rule.active and rule.status == "running" and definitions.active
        for value in rule.variations
        for recipe in pair_of(value) or ()
        if recipe not in live.bundles
    ]
