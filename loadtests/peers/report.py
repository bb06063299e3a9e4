"""The arithmetic of a comparison and its tables. Ratios are taken within rounds: a slow spell of the machine hits a round's
servers alike, and only ratios carry over to another machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

LIMIT_MS = 60.0  # of p99, as MLPerf's recommender asks of a server
RIGHT_SHARE = 0.999  # of the requests sent: a server that refuses the others holds no rate


@dataclass(frozen=True)
class Window:
    """One server under `callers` for a while. cpu_ms: processor time of its tree a right answer; degraded: share of answers from
    a lower rung."""

    server: str
    callers: int
    round: int
    per_second: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    failures: int
    degraded: float


@dataclass(frozen=True)
class Point:
    """One server at a fixed rate. late: sends that left late, for which the generator is to blame."""

    server: str
    rate: float
    p50_ms: float
    p99_ms: float
    sent: int
    right: int
    late: int
    degraded: float = 0.0

    @property
    def holds(self) -> bool:
        return self.p99_ms <= LIMIT_MS and self.right >= RIGHT_SHARE * self.sent


@dataclass(frozen=True)
class Spread:
    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.middle)} [{_short(self.low)}, {_short(self.high)}]"


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most."""
    known = list(values)
    return Spread(median(known), min(known), max(known)) if known else Spread(math.nan, math.nan, math.nan)


def ratios(windows: Sequence[Window], of: str, to: str, callers: int) -> list[float]:
    """Requests a second of one server over another's, one ratio a round that has both."""
    by_round = {(one.server, one.round): one.per_second for one in windows if one.callers == callers}
    rounds = sorted({one.round for one in windows})
    both = [(by_round.get((of, one)), by_round.get((to, one))) for one in rounds]
    return [ours / theirs for ours, theirs in both if ours is not None and theirs]


def capacity(windows: Sequence[Window], server: str) -> float:
    """Requests a second: the best median over the numbers of callers."""
    mine = [one for one in windows if one.server == server]
    return max(median(one.per_second for one in mine if one.callers == callers) for callers in {one.callers for one in mine})


def highest_rate(points: Iterable[Point]) -> float:
    """The highest measured rate that is held; 0 when none is."""
    return max((one.rate for one in points if one.holds), default=0.0)


def next_rate(points: Sequence[Point], most: float) -> float:
    """Where to measure next: between the highest rate held and the lowest that was not above it, at most `most`."""
    held = highest_rate(points)
    return (held + min((one.rate for one in points if one.rate > held), default=most)) / 2


def closed_table(windows: Sequence[Window], servers: Sequence[str], callers: int, against: str) -> str:
    lines = [f"{callers} caller{'s' if callers > 1 else ''} at once, closed loop:", ""]
    lines += table_head(
        "server", "requests/s", f"{against} is times faster", "CPU ms a request", "p50 ms", "p99 ms", "wrong", "degraded"
    )
    for server in servers:
        mine = [one for one in windows if one.server == server and one.callers == callers]
        times = "" if server == against else str(spread(ratios(windows, against, server, callers)))
        figures = [str(spread(one.per_second for one in mine)), times, str(spread(one.cpu_ms for one in mine))]
        figures += [_short(median(one.p50_ms for one in mine)), _short(median(one.p99_ms for one in mine))]
        lines.append(row(server, *figures, str(sum(one.failures for one in mine)), f"{median(one.degraded for one in mine):.1%}"))
    return "\n".join(lines)


def open_table(points: Sequence[Point], servers: Sequence[str], windows: Sequence[Window], against: str) -> str:
    lines = [f"Open loop: the highest rate at which p99 <= {LIMIT_MS:g} ms, and what was measured on the way:", ""]
    lines += table_head(
        "server", "highest rate/s", f"{against} holds times more", "capacity/s", "rate: p50 / p99 ms (late of sent)"
    )
    best = highest_rate(one for one in points if one.server == against)
    for server in servers:
        mine = sorted((one for one in points if one.server == server), key=lambda one: one.rate)
        held = highest_rate(mine)
        times = "" if server == against or not held else f"{best / held:.1f}"
        curve = " · ".join(
            f"{one.rate:.0f}: {_short(one.p50_ms)} / {_short(one.p99_ms)} ({one.late} of {one.sent})" for one in mine
        )
        lines.append(row(server, f"{held:.0f}", times, f"{capacity(windows, server):.0f}", curve))
    return "\n".join(lines)


def _on_curve(one: Point) -> str:
    return f"{one.rate:.0f}: {_short(one.p50_ms)} / {_short(one.p99_ms)} ({one.late} of {one.sent})"


def kernels_line(windows: Sequence[Window], server: str, kernels: Sequence[dict[str, float]]) -> str:
    """CPU of a request over the sum of its bare kernels, both of the same round. kernels: microseconds by name, one a round."""
    callers = max(one.callers for one in windows)
    cpu = {one.round: one.cpu_ms for one in windows if one.server == server and one.callers == callers}
    sums = [sum(one.values()) / 1e3 for one in kernels]
    whole = spread(cpu[at] / one for at, one in enumerate(sums) if at in cpu)
    parts = ", ".join(f"{name} {median(one[name] for one in kernels) / 1e3:.3f}" for name in kernels[0])
    return f"CPU a request of {server} is {whole} times the sum of its bare kernels, {_short(median(sums))} ms: {parts}."


def table_head(*names: str) -> list[str]:
    return [row(*names), row("---", *("---:" for _ in names[1:]))]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(values: Iterable[Any]) -> list[dict[str, Any]]:
    """Fields by name; null for what is not finite, which JSON has no word for."""
    return [{key: _known(value) for key, value in vars(one).items()} for one in values]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
