"""Latency against rate and requests a second against callers, one line a server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.peers.report import LIMIT_MS, Point, Window


def latency_against_rate(points: Sequence[Point], path: Path) -> None:
    """p99 solid and p50 dotted; both axes logarithmic: servers differ by more than ten times."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    _latency(axes, points)
    axes.set(xscale="log")
    _save(figure, path)


def growth(windows: Sequence[Window], points: Sequence[Point], path: Path) -> None:
    """Left, requests a second against callers at once; right, latency against rate."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5))
    for server in dict.fromkeys(one.server for one in windows):
        mine = [one for one in windows if one.server == server]
        callers = sorted({one.callers for one in mine})
        rates = [median(one.per_second for one in mine if one.callers == at) for at in callers]
        left.plot(callers, rates, "o-", label=server, markersize=4)
    left.set(xscale="log", xlabel="callers at once", ylabel="requests a second", ylim=(0, None))
    left.set_xticks(callers, map(str, callers))
    left.grid(True, alpha=0.25)
    _latency(right, points)
    _save(figure, path)


def _latency(axes: Any, points: Sequence[Point]) -> None:
    for number, server in enumerate(dict.fromkeys(one.server for one in points)):
        mine = sorted((one for one in points if one.server == server and math.isfinite(one.p99_ms)), key=lambda one: one.rate)
        rates, colour = [one.rate for one in mine], f"C{number}"
        axes.plot(rates, [one.p99_ms for one in mine], "o-", color=colour, label=server, markersize=4)
        axes.plot(rates, [one.p50_ms for one in mine], ":", color=colour)
    axes.axhline(LIMIT_MS, color="grey", linewidth=1, linestyle="--")
    axes.set(yscale="log", xlabel="requests a second, sent at a fixed rate", ylabel="ms (p99 solid, p50 dotted)")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
