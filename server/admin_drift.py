"""Do the bundles still say what they said when they began to serve? /admin/v1/drift."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from contracts.keys import served_scores
from server.admin_ads import redis_or_503
from server.bundle import Bundle
from server.errors import Problem
from server.gateway import Gateway
from server.polling import IfNoneMatch, answers, polled
from server.psi import DRIFTED, MOVED, chance, psi
from server.scores import EDGES, FIRST, HOURS, Counts

Verdict = Literal["stable", "moved", "drifted", "gathering", "too few"]
Hours = Annotated[int, Query(ge=1, le=HOURS)]

_UNSEEN_MOVED = 0.05  # of answers: a share of strangers that moved by less is not worth a word


class Thresholds(BaseModel):
    """From which PSI on a distribution has moved, has drifted."""

    moved: float = MOVED
    drifted: float = DRIFTED


class Distribution(BaseModel):
    """shares: of ads by p_click, one more than there are edges; empty without any."""

    since: datetime | None
    answers: int
    ads: int
    shares: list[float]
    mean_p_click: float | None


class SliceDrift(BaseModel):
    """unseen_share: of answers to users without a row in the bundle."""

    domain: str
    recipe: str
    bundle_id: str
    verdict: Verdict
    words: str
    psi: float | None
    unseen_share: float | None
    unseen_share_reference: float | None
    reference: Distribution
    recent: Distribution


class DriftAnswer(BaseModel):
    hours: int
    bin_edges: list[float]
    thresholds: Thresholds
    slices: list[SliceDrift]


def add(routes: APIRouter, gateway: Gateway) -> None:
    @routes.get("/drift", response_model=DriftAnswer, responses=answers(422, 500))
    async def drift(hours: Hours = 2, if_none_match: IfNoneMatch = None) -> Response:
        """By domain and live recipe, the p_click served in the last hours against those of the bundle's first hour there."""
        live = gateway.registry.live.bundles
        async with redis_or_503(gateway):
            await gateway.scores.flush()  # what this worker has not told yet
            slices = [
                await _slice(gateway, bundle, domain, hours)
                for _, bundle in sorted(live.items())
                for domain in sorted(bundle.domains)
            ]
        slices.sort(key=lambda one: (one.domain, one.recipe))
        found = DriftAnswer(hours=hours, bin_edges=list(EDGES), thresholds=Thresholds(), slices=slices)
        return polled(found, if_none_match)


async def _slice(gateway: Gateway, bundle: Bundle, domain: str, hours: int) -> SliceDrift:
    this_hour = int(time.time() // 3600)
    wanted = range(this_hour - hours + 1, this_hour + 1)
    async with gateway.redis.pipeline(transaction=False) as pipe:
        for part in (FIRST, *map(str, wanted)):
            pipe.hgetall(served_scores(bundle.bundle_id, domain, part))
        first, *later = await pipe.execute()
    try:
        reference, recent = Counts.of(first), Counts()
        for fields in later:
            recent.add(Counts.of(fields))
        since = float(first[b"since"]) if b"since" in first else None
    except ValueError as error:
        keys = served_scores(bundle.bundle_id, domain, "*")
        raise Problem(500, "drift-damaged", f"counts under {keys} in Redis are no counts: {error}; delete those keys") from None
    began = next((hour * 3600.0 for hour, fields in zip(wanted, later, strict=True) if fields), None)
    gathering = since is None or time.time() - since < gateway.scores.reference_seconds
    index = None if gathering or not (reference.ads and recent.ads) else psi(reference.bins, recent.bins)
    verdict = _verdict(bundle, gathering, index, reference, recent)
    return SliceDrift(
        domain=domain,
        recipe=bundle.recipe,
        bundle_id=bundle.bundle_id,
        verdict=verdict,
        words=_words(bundle, verdict, index, reference, recent),
        psi=index,
        unseen_share=_share(recent),
        unseen_share_reference=_share(reference),
        reference=_distribution(reference, since),
        recent=_distribution(recent, began),
    )


def _verdict(bundle: Bundle, gathering: bool, index: float | None, reference: Counts, recent: Counts) -> Verdict:
    """Ads of one answer are alike, so answers are what counts as independent. Chance alone may make half of what `moved` is."""
    if bundle.ranker is None:
        return "too few"
    if gathering:
        return "gathering"
    if index is None or chance(reference.bins, reference.answers, recent.answers) > MOVED / 2:
        return "too few"
    return "drifted" if index >= DRIFTED else "moved" if index >= MOVED else "stable"


def _words(bundle: Bundle, verdict: Verdict, index: float | None, reference: Counts, recent: Counts) -> str:
    if bundle.ranker is None:
        return "the recipe has no ranker, so it serves no probabilities"
    if verdict == "gathering":
        return f"the bundle's first time here is not over: {reference.answers:,} answers so far"
    if verdict == "too few":
        return f"too few answers to tell: {recent.answers:,} lately, {reference.answers:,} in the bundle's first time here"
    text = {
        "stable": "p_click is distributed as in the bundle's first time here",
        "moved": "p_click is distributed otherwise than in the bundle's first time here: look at what changed",
        "drifted": "p_click is distributed far otherwise than in the bundle's first time here: find out why",
    }[verdict]
    before, now = _share(reference) or 0.0, _share(recent) or 0.0
    strangers = f"; users without a row: {now:.0%} of answers, {before:.0%} then" if abs(now - before) >= _UNSEEN_MOVED else ""
    return f"{text} (PSI {index:.3f}){strangers}"


def _distribution(counts: Counts, since: float | None) -> Distribution:
    ads = counts.ads
    return Distribution(
        since=None if since is None else datetime.fromtimestamp(since, UTC),
        answers=counts.answers,
        ads=ads,
        shares=[count / ads for count in counts.bins] if ads else [],
        mean_p_click=counts.p_sum / ads if ads else None,
    )


def _share(counts: Counts) -> float | None:
    return counts.unseen / counts.answers if counts.answers else None
