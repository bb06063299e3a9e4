"""Events as the gateway writes them, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import redis

from contracts.events import ArmRecord, Exposure, Feedback, ShownAd, to_stream
from contracts.keys import EVENTS

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def exposure(request_id: str, user_id: str = "u1", arm: str | None = None, **fields: Any) -> Exposure:
    arms = [ArmRecord(experiment="ranker-test", arm=arm, recipe="adi+dsfm")] if arm is not None else []
    ads = [ShownAd(ad_id=f"a{at}", position=at, p_click=0.1, rank_score=0.2, bid=1.5) for at in range(3)]
    values = {"time": NOON, "domain": "feed", "bundle_id": "b1", "recipe": "adi+dsfm", "arms": arms, "ads": ads, **fields}
    return Exposure(request_id=request_id, user_id=user_id, **values)


def outcome(event_id: str, kind: str, request_id: str, user_id: str = "u1", ad_id: str = "a0", **fields: Any) -> Feedback:
    values = {"domain": "feed", "time": NOON, "received": NOON + 5, "type": kind, **fields}
    return Feedback(event_id=event_id, request_id=request_id, user_id=user_id, ad_id=ad_id, **values)


def log(client: redis.Redis, events: Iterable[Exposure | Feedback]) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for event in events:
            pipeline.xadd(EVENTS, to_stream(event))
        pipeline.execute()
