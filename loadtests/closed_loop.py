"""Closed-loop load: callers, each of whom asks again once answered. For capacity; latency is open_loop.py's affair."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

import msgspec

from loadtests.open_loop import MDREC, Client, Dialect, ask
from loadtests.traffic import Traffic

_TIMEOUT = 30.0


@dataclass
class Answered:
    """latency: seconds of each right answer; elapsed: seconds from the first request to the last answer."""

    latency: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    elapsed: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latency) / self.elapsed if self.elapsed else 0.0


async def call(url: str, traffic: Traffic, callers: int, seconds: float, k: int = 10, dialect: Dialect = MDREC) -> Answered:
    """`callers` ask for `seconds`; what is under way then is waited for, so that the server was busy for all of `elapsed`."""
    client, found = Client(url, callers), Answered()
    started = perf_counter()

    async def one() -> None:
        while perf_counter() < started + seconds:
            body = msgspec.json.encode(traffic.recommend(k))
            sent = perf_counter()
            answer, problem, done = await ask(client, body, k, dialect, _TIMEOUT, _nothing)
            if problem:
                found.failures[problem] += 1
            else:
                found.latency.append(done - sent)
                found.rungs.update(answer["degraded"] or ["full service"])

    try:
        await asyncio.gather(*(one() for _ in range(callers)))
    finally:
        client.close()
    found.elapsed = perf_counter() - started
    return found


def _nothing() -> None:
    pass
