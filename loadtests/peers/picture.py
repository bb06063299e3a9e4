"""Latency against rate, one line a server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from loadtests.peers.report import LIMIT_MS, Point


def latency_against_rate(points: Sequence[Point], path: Path) -> None:
    """p99 solid and p50 dashed; both axes logarithmic: servers differ by more than ten times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    for number, server in enumerate(dict.fromkeys(one.server for one in points)):
        mine = sorted((one for one in points if one.server == server and math.isfinite(one.p99_ms)), key=lambda one: one.rate)
        rates, colour = [one.rate for one in mine], f"C{number}"
        axes.plot(rates, [one.p99_ms for one in mine], "o-", color=colour, label=server, markersize=4)
        axes.plot(rates, [one.p50_ms for one in mine], ":", color=colour)
    axes.axhline(LIMIT_MS, color="grey", linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="requests a second, sent at a fixed rate", ylabel="ms (p99 solid, p50 dotted)")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
