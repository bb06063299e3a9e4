"""What travels over HTTP: requests as pydantic models, answers as dataclasses that are written without validation.

Both are the only definitions: OpenAPI is generated from them (server/openapi.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_ID_BYTES = 256
MAX_K = 500
MAX_AD_IDS = 2000
MAX_CONTEXT = 64


def _short(value: str) -> str:
    size = len(value.encode())
    if size > MAX_ID_BYTES:
        raise ValueError(f"an id has at most {MAX_ID_BYTES} bytes of UTF-8, this one has {size}")
    return value


Id = Annotated[str, Field(min_length=1, json_schema_extra={"maxLength": MAX_ID_BYTES}), AfterValidator(_short)]
Scalar = str | bool | int | float | None
Context = Annotated[dict[str, Scalar], Field(max_length=MAX_CONTEXT)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendRequest(_Request):
    user_id: Id
    domain: str
    k: int = Field(10, ge=1, le=MAX_K)
    context: Context = {}
    exclude_ad_ids: list[Id] = Field([], max_length=MAX_AD_IDS)
    request_id: Id | None = None
    deadline_ms: float | None = Field(None, gt=0, le=60_000, description="what the caller will wait; stages shrink to fit")
    explain: bool = Field(False, description="keep a decision record, to be read at /v1/requests/{request_id}")


class ScoreRequest(_Request):
    user_id: Id
    domain: str
    context: Context = {}
    ad_ids: list[Id] = Field(min_length=1, max_length=MAX_AD_IDS)
    request_id: Id | None = None
    deadline_ms: float | None = Field(None, gt=0, le=60_000)


class FeedbackEvent(_Request):
    event_id: Id
    type: Literal["impression", "click", "conversion"]
    request_id: Id
    user_id: Id
    domain: str
    ad_id: Id
    position: int | None = Field(None, ge=0)
    time: float | None = Field(None, ge=0, allow_inf_nan=False, description="seconds since 1970, UTC; now when absent")
    value: float | None = Field(None, allow_inf_nan=False)


class FeedbackRequest(_Request):
    """Events are validated one by one, so that one bad event does not lose the others."""

    events: list[Any] = Field(min_length=1, json_schema_extra={"items": {"$ref": "#/components/schemas/FeedbackEvent"}})


@dataclass(slots=True)
class Arm:
    experiment: str
    arm: str
    recipe: str


@dataclass(slots=True)
class RecommendedAd:
    """p_click is null without a ranker; retrieval_score is null for an ad that came from the popular list."""

    ad_id: str
    position: int
    p_click: float | None
    rank_score: float
    retrieval_score: float | None
    bid: float


@dataclass(slots=True)
class RecommendAnswer:
    request_id: str
    domain: str
    bundle_id: str
    arms: list[Arm]
    ads: list[RecommendedAd]
    degraded: list[str]
    timings_ms: dict[str, float]


@dataclass(slots=True)
class Interleaved:
    """The slates of two recipes as one, by team draft. By position: teams, whose pick the ad was, 0 or 1 (its p_click and
    rank_score are that recipe's); counts, whether a click on it speaks for that recipe; weights, how loudly, 0 where not."""

    experiment: str
    arm: str
    recipes: list[str]
    bundle_ids: list[str]
    teams: list[int]
    counts: list[bool]
    weights: list[float]


@dataclass(slots=True)
class InterleavedAnswer(RecommendAnswer):
    """bundle_id is the first recipe's."""

    interleaved: Interleaved


@dataclass(slots=True)
class ScoredAd:
    ad_id: str
    p_click: float | None
    rank_score: float


@dataclass(slots=True)
class ScoreAnswer:
    request_id: str
    domain: str
    bundle_id: str
    arms: list[Arm]
    scores: list[ScoredAd]
    unknown_ad_ids: list[str]
    degraded: list[str]
    timings_ms: dict[str, float]


@dataclass(slots=True)
class Rejection:
    index: int
    reason: str


@dataclass(slots=True)
class FeedbackAnswer:
    accepted: int
    duplicates: int
    rejected: list[Rejection]


@dataclass(slots=True)
class DomainBundle:
    recipe: str
    bundle_id: str
    ads: int
    index: str


@dataclass(slots=True)
class DomainInfo:
    """ads: of the champion's bundle, else of the first live recipe that serves the domain."""

    name: str
    ads: int
    bundles: list[DomainBundle]


@dataclass(slots=True)
class DomainsAnswer:
    domains: list[DomainInfo]


@dataclass(slots=True)
class BundleInfo:
    """live: in service in this worker; champion: answers outside every experiment."""

    bundle_id: str
    recipe: str
    created_at: str
    bytes: int
    content_digest: str
    live: bool
    champion: bool
    metrics: dict[str, Any]


@dataclass(slots=True)
class BundlesAnswer:
    bundles: list[BundleInfo]


@dataclass(slots=True)
class CandidateRecord:
    """left_at: the stage at which it left (`filter`, `select`), null when it was answered; reason: why it left."""

    ad_id: str
    retrieval_rank: int
    retrieval_score: float | None
    p_click: float | None
    bid: float
    rank_score: float | None
    position: int | None
    left_at: str | None
    reason: str | None


@dataclass(slots=True)
class InterleavedCandidate(CandidateRecord):
    """One candidate of one of two recipes; left_at may be `interleave`, too."""

    recipe: str


@dataclass(slots=True)
class DecisionRecord:
    """One answer and every candidate it was chosen from."""

    request_id: str
    time: float
    user_id: str
    domain: str
    k: int
    context: dict[str, Any]
    bundle_id: str
    recipe: str
    arms: list[Arm]
    degraded: list[str]
    timings_ms: dict[str, float]
    candidates: list[CandidateRecord]
