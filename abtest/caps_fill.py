"""What users saw before a cap looked at it, from the ledger: `seen:{user_id}` as if the cap had always been there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import redis

from abtest.caps import Cap, counts_of, looks_back_seconds
from abtest.drain import FEEDBACK, scan
from contracts.keys import seen
from contracts.seen import KEPT, member

_USERS_A_WRITE = 500


def fill(directory: Path, client: redis.Redis, caps: Mapping[str, Cap], now: datetime) -> int:
    """Add the ledger's outcomes as far back as the active caps look, each user's last KEPT; returns how many. What the gateway
    has written meanwhile stays: an event is one member, whoever writes it."""
    seconds = looks_back_seconds(caps)
    since = now - timedelta(seconds=seconds)
    files = [
        path
        for folder in sorted(directory.glob("day=*"))
        if folder.name.removeprefix("day=") >= since.date().isoformat()
        for path in sorted(folder.glob("feedback-*.parquet"))
    ]
    rows = (
        scan(files, FEEDBACK)
        .filter(pl.col("received") >= since)
        .select("user_id", "type", "domain", "ad_id", "event_id", ms=pl.col("received").dt.epoch("ms"))
        .unique("event_id")
        .collect()
    )
    counted = [domain for domain in rows["domain"].unique().to_list() if counts_of(caps, domain)]
    by_user = rows.filter(pl.col("domain").is_in(counted)).sort("user_id", "ms").partition_by("user_id", maintain_order=True)
    written = 0
    for start in range(0, len(by_user), _USERS_A_WRITE):
        with client.pipeline(transaction=False) as pipe:
            for frame in by_user[start : start + _USERS_A_WRITE]:
                key, last = seen(frame["user_id"][0]), frame.tail(KEPT)
                members = last.select("type", "domain", "ad_id", "event_id").iter_rows()
                pipe.zadd(key, dict(zip((member(*one) for one in members), last["ms"].to_list(), strict=True)))
                pipe.zremrangebyrank(key, 0, -KEPT - 1)
                pipe.expire(key, seconds)
                written += len(last)
            pipe.execute()
    return written
