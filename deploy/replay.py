"""What would another recipe have earned? Its bundle answers the logged requests again; the drawn slates say the rest.

The recipe is evaluated as it would explore: a ranked slate that is never drawn shares too few slates with any log. The first
places of a slate are evaluated, for the weights of a place multiply those above it (abtest/offpolicy.py).

A bundle that learnt from a request has seen its clicks, so only requests after its making count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from abtest.direct import corrections, folds
from abtest.explore import Explore
from abtest.offpolicy import Decisions, Evaluation, evaluate, weigh
from abtest.stats import NotComputable
from contracts.errors import BadInput
from contracts.keys import user_row
from server import features, stages
from server.bundle import Bundle
from server.errors import Problem
from server.stages import Work

Array = NDArray[np.float64]
Rows = Callable[[str], bytes | None]
"""The packed user row under a key, if there is one."""


@dataclass(frozen=True)
class Replay:
    """By metric: `click_rate`, clicks an ad shown, and `ecpm`, revenue of a thousand. requests: replayed; left_out: the others,
    by reason; domains: replayed requests by domain; folded: the bundle's user rows take in clicks while it serves."""

    recipe: str
    bundle_id: str
    explore: Explore
    places: int
    requests: int
    left_out: dict[str, int]
    domains: dict[str, int]
    metrics: dict[str, Evaluation]
    folded: bool


@dataclass(frozen=True, slots=True)
class _Answered:
    """One request's first K places; an answer that was shorter is filled with places of certain, empty choice. All (K,)."""

    real: NDArray[np.bool_]
    logged: Array
    evaluated: Array
    clicked: Array
    revenue: Array
    clicks_predicted: Array
    clicks_expected: Array
    revenue_predicted: Array
    revenue_expected: Array


def replay(
    slates: pl.DataFrame,
    bundle: Bundle,
    rows: Rows,
    explore: Explore,
    places: int = 3,
    retrieve_k: int = 500,
    seen: Callable[[list[Any]], Iterable[Any]] = iter,
) -> Replay:
    """slates: abtest.explored.explored; seen: wraps the requests as they are worked on, for a progress bar. Raises BadInput for
    a bundle without a ranker, whose order has no chances."""
    if bundle.ranker is None:
        raise BadInput(f"recipe {bundle.recipe} has no ranker, so its slates are never drawn", "replay one that ranks")
    left_out: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    units: dict[str, int] = {}
    unit: list[int] = []
    answered: list[_Answered] = []
    for one in seen(slates.to_dicts()):
        if one["time"].timestamp() <= bundle.created_at:
            left_out["before the bundle was made, which may have learnt from them"] += 1
            continue
        try:
            work = _candidates(bundle, rows, one, retrieve_k)
        except Problem as problem:
            left_out[f"the recipe cannot answer: {problem.detail}"] += 1
            continue
        answered.append(_answer_again(work, one, explore, places))
        unit.append(units.setdefault(one["user_id"], len(units)))
        domains[one["domain"]] += 1
    return Replay(
        bundle.recipe,
        bundle.bundle_id,
        explore,
        places,
        len(answered),
        dict(left_out),
        dict(domains),
        _metrics(answered, np.array(unit, dtype=np.int64), places),
        bundle.user_domain_encoder is not None,
    )


def _candidates(bundle: Bundle, rows: Rows, request: dict[str, Any], retrieve_k: int) -> Work:
    """Ranked. Raises Problem when this bundle does not know the domain or the context."""
    domain = bundle.domains.get(request["domain"])
    if domain is None:
        raise Problem(422, "unknown-domain", f"domain {request['domain']!r} is unknown")
    work = Work(bundle, domain, request["user_id"], json.loads(request["context"]))
    data = rows(user_row(bundle.manifest.namespace, work.user_id))
    work.row = features.stranger(bundle, work.user_id) if data is None else features.read_row(bundle, data)
    barred = stages.Barred.of(domain, request["excluded"] or [], [])
    count = max(retrieve_k, len(request["ad_id"]))
    stages.encode(work)
    stages.retrieve(work, count, barred.rows)
    stages.filter_ads(work, count, barred)
    if not len(work.rows):
        stages.popular(work)
        stages.filter_ads(work, count, barred)
    stages.rank(work)
    return work


def _answer_again(work: Work, request: dict[str, Any], explore: Explore, places: int) -> _Answered:
    assert work.p_click is not None
    ads = request["ad_id"][:places]
    k = len(ads)
    slate = _places_of(work, ads)
    chances = explore.chances(work.rank_scores, slate)
    clicks = work.p_click.astype(np.float64)
    revenue = clicks * work.domain.ads.bid[work.rows]
    known = slate >= 0

    def filled(values: Any, rest: float) -> Array:
        found = np.full(places, rest)
        found[:k] = values
        return found

    def shown(values: Array) -> Array:
        found = np.zeros(k)
        found[known] = values[slate[known]]
        return filled(found, 0.0)

    evaluated = np.zeros(k)
    evaluated[known] = chances[known, slate[known]]
    propensity = [np.nan if one is None else one for one in request["propensity"][:places]]
    return _Answered(
        real=np.arange(places) < k,
        logged=filled(propensity, 1.0),
        evaluated=filled(evaluated, 1.0),
        clicked=filled(request["clicked"][:places], 0.0),
        revenue=filled(request["revenue"][:places], 0.0),
        clicks_predicted=shown(clicks),
        clicks_expected=filled(chances @ clicks, 0.0),
        revenue_predicted=shown(revenue),
        revenue_expected=filled(chances @ revenue, 0.0),
    )


def _places_of(work: Work, ads: list[str]) -> NDArray[np.int64]:
    """Where each ad stands among the candidates, -1 for one that is none."""
    at = {int(row): place for place, row in enumerate(work.rows)}
    return np.array([at.get(int(row), -1) for row in work.domain.ads.ids.find(ads)], dtype=np.int64)


def _metrics(answered: list[_Answered], unit: NDArray[np.int64], places: int) -> dict[str, Evaluation]:
    def table(name: str) -> Array:
        return np.array([getattr(one, name) for one in answered], dtype=np.float64).reshape(-1, places)

    real = table("real") > 0
    weights = weigh(table("logged"), table("evaluated"))
    user = np.broadcast_to(unit[:, None], real.shape)[real]
    place = np.broadcast_to(np.arange(places), real.shape)[real]
    fold = folds(user)
    found = {}
    for metric, column, of, scale in (("click_rate", "clicked", "clicks", 1.0), ("ecpm", "revenue", "revenue", 1000.0)):
        if isinstance(weights, NotComputable):
            found[metric] = Evaluation.none(weights)
            continue
        before, weight = (one[real] for one in weights)
        reward, predicted, expected = (scale * table(name)[real] for name in (column, f"{of}_predicted", f"{of}_expected"))
        by = corrections(place, places, reward, predicted, fold)[fold, place]
        found[metric] = evaluate(Decisions(user, reward, weight, before, by * predicted, by * expected))
    return found
