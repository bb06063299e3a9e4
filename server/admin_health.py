"""Is it well? Per domain how fast, how degraded, what was dropped; of events how many and how far behind the ledger is.
/admin/v1/health/domains, /admin/v1/health/events."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from contracts.keys import EVENTS
from server.gateway import Gateway
from server.polling import IfNoneMatch, answers, polled
from server.recent import Grown, percentile
from server.redis_door import FAILURES

STAGES = ("hydrate", "encode", "retrieve", "filter", "rank", "select")
_EVENTS_WINDOW_SECONDS = 300.0
_OUTCOMES = ("accepted", "duplicate", "rejected", "dropped")
Buckets = dict[float, float]
Minutes = Annotated[int, Query(ge=1, le=10)]


class Latency(BaseModel):
    """Milliseconds, read from histogram buckets; null without any."""

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class StageLatency(Latency):
    stage: str


class RungCount(BaseModel):
    """share: of the domain's answers."""

    rung: str
    count: int
    share: float | None


class DropCount(BaseModel):
    reason: str
    count: int


class DomainHealth(BaseModel):
    """requests: answers of /v1/recommend and /v1/score; total: parsing to selection, without HTTP."""

    domain: str
    requests: int
    requests_per_second: float
    total: Latency
    stages: list[StageLatency]
    degraded: list[RungCount]
    dropped: list[DropCount]


class DomainsHealth(BaseModel):
    """window_seconds: what the counts are over; less than asked for while the gateway is young."""

    window_seconds: float
    asked_minutes: int
    domains: list[DomainHealth]


class RedisHealth(BaseModel):
    up: bool
    error: str | None


class StreamHealth(BaseModel):
    """What the ledger does not have yet. lag_seconds: age of the oldest event of it."""

    length: int
    oldest_at: datetime | None
    lag_seconds: float | None


class LedgerHealth(BaseModel):
    """rejected_files: batches with entries that were no events; problem: why the ledger cannot be read."""

    last_day: str | None
    last_file: str | None
    last_written_at: datetime | None
    rejected_files: int
    problem: str | None


class EventCount(BaseModel):
    """total: since the gateway started; recent: in the window. duplicate: told before; dropped: lost, for want of room."""

    type: str
    domain: str
    outcome: str
    total: int
    recent: int


class EventsHealth(BaseModel):
    """stream: null while Redis is away; exposures_waiting: in this worker's memory."""

    redis: RedisHealth
    stream: StreamHealth | None
    ledger: LedgerHealth
    exposures_waiting: int
    window_seconds: float
    counts: list[EventCount]


def add(routes: APIRouter, gateway: Gateway) -> None:
    @routes.get("/health/domains", response_model=DomainsHealth, responses=answers(422))
    async def domains(minutes: Minutes = 5, if_none_match: IfNoneMatch = None) -> Response:
        """Of the last minutes, by domain: rate, percentiles of the whole and of each stage, lower rungs, dropped candidates; over
        all workers."""
        grown = await gateway.recent.grown(60.0 * minutes)
        names = sorted(gateway.registry.live.domain_names())
        found = DomainsHealth(window_seconds=round(grown.seconds, 1), asked_minutes=minutes, domains=_domains(grown, names))
        return polled(found, if_none_match, {"window_seconds"})

    @routes.get("/health/events", response_model=EventsHealth, responses=answers())
    async def events(if_none_match: IfNoneMatch = None) -> Response:
        """How far the ledger is behind, and what became of exposures and feedback; over all workers."""
        grown = await gateway.recent.grown(_EVENTS_WINDOW_SECONDS)
        redis, stream = await _stream(gateway)
        found = EventsHealth(
            redis=redis,
            stream=stream,
            ledger=await asyncio.to_thread(_ledger, gateway.settings.home / "events"),
            exposures_waiting=len(gateway.exposures),
            window_seconds=round(grown.seconds, 1),
            counts=_counts(grown),
        )
        return polled(found, if_none_match, {"window_seconds"})


def _domains(grown: Grown, names: list[str]) -> list[DomainHealth]:
    whole: dict[str, Buckets] = defaultdict(lambda: defaultdict(float))
    stages: dict[tuple[str, str], Buckets] = defaultdict(lambda: defaultdict(float))
    degraded: dict[str, dict[str, float]] = defaultdict(dict)
    dropped: dict[str, dict[str, float]] = defaultdict(dict)
    for labels, recent, _ in grown.of("mdrec_answer_duration_seconds_bucket"):
        whole[labels["domain"]][float(labels["le"])] += recent
    for labels, recent, _ in grown.of("mdrec_stage_duration_seconds_bucket"):
        stages[labels["domain"], labels["stage"]][float(labels["le"])] += recent
    for labels, recent, _ in grown.of("mdrec_degraded_total"):
        degraded[labels["domain"]][labels["rung"]] = recent
    for labels, recent, _ in grown.of("mdrec_candidates_dropped_total"):
        dropped[labels["domain"]][labels["reason"]] = recent
    found = []
    for name in names:
        total = _latency(whole[name])
        found.append(
            DomainHealth(
                domain=name,
                requests=total.count,
                requests_per_second=round(total.count / grown.seconds, 3) if grown.seconds else 0.0,
                total=total,
                stages=[StageLatency(stage=stage, **dict(_latency(stages[name, stage]))) for stage in STAGES],
                degraded=[
                    RungCount(rung=rung, count=round(count), share=count / total.count if total.count else None)
                    for rung, count in sorted(degraded[name].items())
                    if count
                ],
                dropped=[DropCount(reason=why, count=round(count)) for why, count in sorted(dropped[name].items()) if count],
            )
        )
    return found


def _latency(buckets: Mapping[float, float]) -> Latency:
    rising = sorted(buckets.items())
    p50, p95, p99 = (percentile(share, rising) for share in (0.5, 0.95, 0.99))
    return Latency(count=round(rising[-1][1]) if rising else 0, p50_ms=_ms(p50), p95_ms=_ms(p95), p99_ms=_ms(p99))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 4)


def _counts(grown: Grown) -> list[EventCount]:
    found = [
        EventCount(**{name: labels[name] for name in ("type", "domain", "outcome")}, total=round(total), recent=round(recent))
        for labels, recent, total in grown.of("mdrec_events_total")
    ]
    return sorted(found, key=lambda one: (one.type, one.domain, _OUTCOMES.index(one.outcome)))


async def _stream(gateway: Gateway) -> tuple[RedisHealth, StreamHealth | None]:
    try:
        length = await gateway.redis.xlen(EVENTS)
        oldest = cast(list[tuple[bytes, object]], await gateway.redis.xrange(EVENTS, count=1))
    except FAILURES as error:
        return RedisHealth(up=False, error=str(error) or type(error).__name__), None
    up = RedisHealth(up=True, error=None)
    if not oldest:
        return up, StreamHealth(length=length, oldest_at=None, lag_seconds=None)
    seconds = int(oldest[0][0].split(b"-")[0]) / 1e3
    at = datetime.fromtimestamp(seconds, UTC)
    return up, StreamHealth(length=length, oldest_at=at, lag_seconds=round(max(time.time() - seconds, 0.0), 1))


def _ledger(directory: Path) -> LedgerHealth:
    """From the last day's files; a ledger that is not there yet is an empty one."""
    try:
        days = sorted(directory.glob("day=*"))
        files = sorted(days[-1].glob("*.parquet"), key=lambda path: path.stat().st_mtime) if days else []
        rejected = sum(1 for _ in directory.glob("rejected/*.jsonl"))
        committed = directory / "_drained.json"
        if committed.exists():
            json.loads(committed.read_bytes())["last"]
        last = files[-1] if files else None
        return LedgerHealth(
            last_day=days[-1].name.removeprefix("day=") if days else None,
            last_file=last.relative_to(directory).as_posix() if last else None,
            last_written_at=datetime.fromtimestamp(last.stat().st_mtime, UTC) if last else None,
            rejected_files=rejected,
            problem=None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{directory}: {type(error).__name__}: {error}; the night cannot go on from it"
        return LedgerHealth(last_day=None, last_file=None, last_written_at=None, rejected_files=0, problem=why)
