"""Open-loop load: requests leave on a fixed timetable whether or not earlier ones were answered.

Latency counts from the moment a request was due, so a stalled gateway is charged for everyone who had to wait (what a
closed loop hides). A request that left more than LATE_MS after it was due is a late send: many of them mean that the
generator or its connections, not the gateway, was the bottleneck. Pin generator and gateway to different cores.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from loadtests.answers import recommend_problem
from loadtests.traffic import Traffic, dataset_directory

LATE_MS = 2.0
_PER_10_000 = {"p50": 5000, "p90": 9000, "p95": 9500, "p99": 9900, "p99.9": 9990, "p99.99": 9999, "max": 10_000}
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
_TIMER_SECONDS = 0.0015  # an event loop's timers are late by up to a millisecond: the rest is spun


@dataclass
class Records:
    """One entry an answered request, in seconds: latency from its due time, service from its sending. late: one entry a
    request sent, sending minus due. elapsed: seconds from the first due time to the last answer."""

    latency: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    elapsed: float = 0.0

    def report(self, rate: float) -> dict[str, Any]:
        """What --json writes. Percentiles are exact, of all answers that were right."""
        late_ms = 1e3 * np.asarray(self.late or [0.0])
        return {
            "asked_per_second": rate,
            "answered_per_second": len(self.latency) / self.elapsed if self.elapsed else 0.0,
            "sent": len(self.late),
            "answered": len(self.latency),
            "failures": dict(self.failures),
            "late_sends": int((late_ms > LATE_MS).sum()),
            "late_ms_max": float(late_ms.max()),
            "rungs": dict(self.rungs),
            "latency_ms": percentiles(self.latency),
            "service_ms": percentiles(self.service),
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p -> milliseconds: the smallest measured value that at least p percent of all do not exceed. Empty for no values."""
    if not seconds:
        return {}
    ordered = np.sort(1e3 * np.asarray(seconds))
    return {name: float(ordered[-(-len(ordered) * share // 10_000) - 1]) for name, share in _PER_10_000.items()}


class Client:
    """Keep-alive HTTP/1.1 connections to one gateway, at most `limit` of them; the most recently used goes first."""

    def __init__(self, url: str, limit: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._permits = asyncio.Semaphore(limit)

    async def post(self, path: str, body: bytes, leaving: Callable[[], None]) -> tuple[int, bytes]:
        """(status, body). `leaving` is called as the request leaves. Raises OSError, EOFError or ValueError."""
        async with self._permits:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
            try:
                leaving()
                head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                status, length, keep = _parse(await reader.readuntil(b"\r\n\r\n"))
                content = await reader.readexactly(length)
            except BaseException:
                writer.close()
                raise
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()
            return status, content

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def _parse(head: bytes) -> tuple[int, int, bool]:
    """(status, content length, whether the connection stays) of a response head."""
    first, *lines = head.decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(":", 1) for line in lines if line)
    return int(first.split(" ", 2)[1]), int(headers["content-length"]), headers.get("connection", "").strip() != "close"


@dataclass(frozen=True)
class Plan:
    """rate: requests a second; warmup: seconds sent but not recorded; seconds: recorded; timeout: seconds an answer may take."""

    rate: float
    seconds: float
    warmup: float = 2.0
    k: int = 10
    connections: int = 256
    timeout: float = 10.0


@dataclass(frozen=True)
class Dialect:
    """How a server that is not mdrec takes the same body and gives the same answer. wrap: of a body; unwrap: of an answer."""

    path: str = "/v1/recommend"
    wrap: Callable[[bytes], bytes] = bytes
    unwrap: Callable[[bytes], Any] = msgspec.json.decode


MDREC = Dialect()


async def drive(plan: Plan, url: str, traffic: Traffic, dialect: Dialect = MDREC) -> Records:
    """Send every request of the plan at its time, wait for the last answer."""
    records, discarded = Records(), Records()
    client = Client(url, plan.connections)
    under_way: set[asyncio.Task[None]] = set()
    start = perf_counter()
    try:
        for number in range(round(plan.rate * (plan.warmup + plan.seconds))):
            body = msgspec.json.encode(traffic.recommend(plan.k))
            due = start + number / plan.rate
            await _until(due)
            kept = records if number >= plan.rate * plan.warmup else discarded
            one = asyncio.create_task(_send(client, body, due, plan, kept, dialect))
            under_way.add(one)
            one.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        records.elapsed = perf_counter() - start - plan.warmup
    finally:
        client.close()
    return records


async def _send(client: Client, body: bytes, due: float, plan: Plan, records: Records, dialect: Dialect) -> None:
    left = due

    def leaving() -> None:
        nonlocal left
        left = perf_counter()
        records.late.append(left - due)

    answer, problem, done = await ask(client, body, plan.k, dialect, plan.timeout, leaving)
    if problem:
        records.failures[problem] += 1
        return
    records.latency.append(done - due)
    records.service.append(done - left)
    records.rungs.update(answer["degraded"] or ["full service"])


async def ask(
    client: Client, body: bytes, k: int, dialect: Dialect, patience: float, leaving: Callable[[], None]
) -> tuple[Any, str | None, float]:
    """(the answer, what is wrong with it, when it was there). patience: seconds. Raises nothing that a server or a connection
    can cause."""
    done = math.nan
    try:
        async with asyncio.timeout(patience):
            status, content = await client.post(dialect.path, dialect.wrap(body), leaving)
        done = perf_counter()
        answer = dialect.unwrap(content)
        return answer, recommend_problem(status, answer, k), done
    except (OSError, EOFError, msgspec.DecodeError, *_MALFORMED) as error:  # TimeoutError is an OSError
        return None, type(error).__name__, done


async def _until(due: float) -> None:
    """Sleep coarsely, then spin: to within some tens of microseconds, while answers are being read."""
    coarse = due - perf_counter() - _TIMER_SECONDS
    await asyncio.sleep(max(coarse, 0.0))
    while perf_counter() < due:  # noqa: ASYNC110 - no event announces a moment
        await asyncio.sleep(0)


def to_table(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [
        f"asked {report['asked_per_second']:g}/s, answered {report['answered_per_second']:.1f}/s: "
        f"{report['sent']} sent, {report['answered']} right answers, {sum(report['failures'].values())} failures",
        f"late sends (> {LATE_MS:g} ms): {report['late_sends']}, latest {report['late_ms_max']:.2f} ms",
        f"by rung: {report['rungs']}",
    ]
    lines += [f"failure: {reason} x {count}" for reason, count in report["failures"].items()]
    if report["latency_ms"]:
        names = list(report["latency_ms"])
        lines.append(f"{'ms':>16}" + "".join(f"{name:>10}" for name in names))
        for row in ("latency_ms", "service_ms"):
            title = {"latency_ms": "from due time", "service_ms": "from sending"}[row]
            lines.append(f"{title:>16}" + "".join(f"{report[row][name]:10.2f}" for name in names))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every answer was right, 1 when one was not, 2 for bad usage."""
    example = "Example: python -m loadtests.open_loop --rate 200 --seconds 60 --json open_loop.json"
    parser = argparse.ArgumentParser(prog="python -m loadtests.open_loop", description=__doc__, epilog=example)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="measured time, after the warm-up")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds sent and not measured")
    parser.add_argument("--k", type=int, default=10, help="ads asked for")
    parser.add_argument("--connections", type=int, default=256, help="most connections open at once")
    parser.add_argument("--url", default=os.environ.get("MDREC_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--dataset", type=Path, default=dataset_directory(), help="whose traffic to imitate")
    parser.add_argument("--json", type=Path, help="also write the report here")
    given = parser.parse_args(arguments)
    if given.rate <= 0 or given.seconds <= 0:
        parser.error("--rate and --seconds must be above 0")
    try:
        traffic = Traffic.read(given.dataset)
    except OSError as error:
        parser.error(f"no dataset to draw from: {error}; set MDREC_LOAD_DATASET or --dataset")
    plan = Plan(given.rate, given.seconds, given.warmup, given.k, given.connections)
    report = asyncio.run(drive(plan, given.url, traffic)).report(plan.rate)
    print(to_table(report))
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
