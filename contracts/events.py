"""What the gateway logs: an Exposure (a unit met its arm and was answered) and Feedback (what became of the answer).

Both travel as one JSON field of the `events` stream and as rows of the Parquet ledger.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Id = Annotated[str, Field(min_length=1, max_length=256)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArmRecord(_Record):
    """The arm a unit met in one experiment, and the recipe that answered there."""

    experiment: str
    arm: str
    recipe: str


class ShownAd(_Record):
    """propensity: chance that this ad stood here, given those before it; only of slates that were drawn."""

    ad_id: Id
    position: int
    p_click: float | None
    rank_score: float
    bid: float
    propensity: Annotated[float, Field(gt=0, le=1)] | None = None


class Interleaved(_Record):
    """The slates of two recipes as one, by team draft. By position: teams, whose pick the ad was, 0 or 1; counts, whether a click
    on it speaks for that recipe; weights, how loudly: none in older events, whose clicks weigh 1. bundle_ids: which bundle
    answered for each."""

    experiment: str
    arm: str
    recipes: tuple[str, str]
    bundle_ids: tuple[str, str]
    teams: list[int]
    counts: list[bool]
    weights: list[float] = []


class Exposure(_Record):
    """One answered recommend. time: seconds since 1970, UTC, at the gateway. excluded: the ads that the caller would not
    have, kept of drawn slates, of which another recipe's are made again. interleaved: of an answer that two recipes gave; its
    bundle_id is the first one's, p_click and rank_score of an ad are the picking one's."""

    kind: Literal["exposure"] = "exposure"
    request_id: Id
    time: float
    user_id: Id
    domain: str
    bundle_id: str
    recipe: str
    arms: list[ArmRecord]
    context: dict[str, Any] = {}
    ads: list[ShownAd]
    degraded: list[str] = []
    excluded: list[Id] = []
    interleaved: Interleaved | None = None


class Feedback(_Record):
    """One outcome. event_id makes it count once; time: seconds since 1970, UTC, as the client says; received: as the
    gateway saw it; value: currency units (a conversion's worth, or a click's price when it differs from the bid)."""

    kind: Literal["feedback"] = "feedback"
    event_id: Id
    type: Literal["impression", "click", "conversion"]
    request_id: Id
    user_id: Id
    domain: str
    ad_id: Id
    position: int | None = None
    time: float
    value: float | None = None
    received: float


Event = Annotated[Exposure | Feedback, Field(discriminator="kind")]
_EVENT: TypeAdapter[Exposure | Feedback] = TypeAdapter(Event)

STREAM_FIELD = b"e"


def to_stream(event: Exposure | Feedback) -> dict[bytes, bytes]:
    """The fields of one XADD."""
    return {STREAM_FIELD: event.model_dump_json().encode()}


def from_stream(fields: dict[bytes, bytes]) -> Exposure | Feedback:
    """Raises ValueError (pydantic) on anything that is not an event."""
    return _EVENT.validate_json(fields.get(STREAM_FIELD, b""))
