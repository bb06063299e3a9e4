"""The plots of an evaluation, each from what its rows say; one that has nothing to show is absent.

Comparisons of recipes are dots on a scale of their own, not bars from zero: what is to be seen is a difference of .002, and
beside it how far the seeds lie apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from contracts.files import write_bytes
from trainer.attribution import DomainSensitivity
from trainer.attribution import figure as attribution_figure
from trainer.summary import BY_DOMAIN, Pick, Row, domains_of, grouped, values

_DOMAINS = 6  # panels: the largest domains, where recipes differ by more than noise
_FEATURES = 20
_COLORS = 64
_MANY_FIELDS = 12  # more do not leave room for their numbers
_INK, _PALE, _WARM = "#3b6ea5", "#c9d3de", "#c8553d"
Result = Mapping[str, Any]


def figures(result: Result) -> dict[str, Figure]:
    """By title, in the order of a report."""
    found = {title: draw(result) for title, draw in _FIGURES.items()}
    return {title: figure for title, figure in found.items() if figure is not None}


def write_plots(result: Result, directory: Path) -> list[Path]:
    """Each plot as <dataset>-<title>.png."""
    paths = []
    for title, figure in figures(result).items():
        name = f"{result['dataset']}-{title}".lower().replace(" ", "-").replace("@", "")
        paths.append(directory / f"{name}.png")
        write_bytes(paths[-1], png(figure))
    return paths


def png(figure: Figure) -> bytes:
    """64 colours are enough for lines and text, and a third of the bytes."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(_COLORS).save(small, format="PNG", optimize=True)
    return small.getvalue()


def _dots_by_domain(result: Result, pick: Pick, mean: Pick | None, band: tuple[float, float] | None = None) -> Figure | None:
    """A line a recipe, a panel a domain: every seed a small dot, their mean a large one with ± one standard deviation."""
    recipes = {name: rows for name, rows in grouped(result).items() if values(rows, pick)}
    if not recipes:
        return None
    picks: dict[str, Pick] = {"mean": mean} if mean else {}
    picks |= {domain: lambda row, domain=domain: pick(row)[domain] for domain in _largest(result, pick)}  # type: ignore[misc]
    figure, axes = _grid(len(picks), len(recipes), share=True)
    for axis, (title, one) in zip(axes, picks.items(), strict=True):
        for line, rows in enumerate(recipes.values()):
            found = values(rows, one)
            if found:
                axis.plot(found, [line] * len(found), ".", color=_PALE, zorder=1)
                axis.errorbar(
                    np.mean(found), line, xerr=np.std(found, ddof=1) if len(found) > 1 else 0, fmt="o", color=_INK, ms=4
                )
        if band:
            axis.axvspan(*band, color=_PALE, alpha=0.4, lw=0)
        axis.set_title(title, fontsize="medium")
    _name_lines(axes[0], recipes)
    return figure


def _auc(result: Result) -> Figure | None:
    scored = bool(result.get("score_domains"))
    return _dots_by_domain(result, BY_DOMAIN["AUC by domain"], lambda row: row["auc"]["scored" if scored else "mean_domain"])


def _recall(result: Result) -> Figure | None:
    return _dots_by_domain(result, BY_DOMAIN["Recall@50 by domain"], lambda row: row["recall"]["50"]["mean_domain"])


def _on_candidates(result: Result) -> Figure | None:
    pick = BY_DOMAIN["Recall@10 of candidates by domain"]
    return _dots_by_domain(result, pick, lambda row: row["recall_candidates"]["10"]["mean_domain"])


def _calibration(result: Result) -> Figure | None:
    pick = BY_DOMAIN["Calibration by domain (predicted / observed)"]
    return _dots_by_domain(result, pick, None, band=(0.95, 1.05))


def _differences(result: Result) -> Figure | None:
    """Intervals of every recipe against the one asked for, a panel a metric."""
    against = result.get("against")
    scope = "scored" if result.get("score_domains") else "mean"
    shown = [one for one in result.get("paired", []) if one["against"] == against and one["scope"] == scope]
    metrics, recipes = (list(dict.fromkeys(one[key] for one in shown)) for key in ("metric", "recipe"))
    if not shown:
        return None
    figure, axes = _grid(len(metrics), len(recipes), share=True)
    for axis, metric in zip(axes, metrics, strict=True):
        axis.axvline(0, color="black", lw=0.8)
        for one in (one for one in shown if one["metric"] == metric):
            color = _INK if one["low"] > 0 else _WARM if one["high"] < 0 else "#8895a3"
            line = recipes.index(one["recipe"])
            axis.plot([one["low"], one["high"]], [line, line], color=color)
            axis.plot(one["difference"], line, "o", color=color, ms=4)
        axis.set_title(metric, fontsize="medium")
    figure.supxlabel(f"difference to {against}, 95% interval over users", fontsize="medium")
    _name_lines(axes[0], recipes)
    return figure


def _auc_against_flops(result: Result) -> Figure | None:
    points = {}
    for name, rows in grouped(result).items():
        scored = [row["auc"].get("scored", row["auc"].get("mean_domain")) for row in rows if "auc" in row]
        if scored and None not in scored and rows[0].get("flops_per_candidate"):
            points[name] = (rows[0]["flops_per_candidate"], float(np.mean(scored)))
    if not points:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*points.values(), strict=True), "o", color=_INK)
    for name, (flops, auc) in points.items():
        axis.annotate(name, (flops, auc), xytext=(5, 3), textcoords="offset points", fontsize="small")
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_xlabel("floating-point operations a candidate")
    axis.set_ylabel("mean AUC")
    return figure


def _recall_curves(result: Result) -> Figure | None:
    def pick(row: Row) -> Any:
        return {name: True for one in row["recall_curve"].values() for name in one.get("by_domain", {})}

    recipes = {name: rows for name, rows in grouped(result).items() if values(rows, pick)}
    if not recipes:
        return None
    domains = _largest(result, pick)
    figure, axes = _grid(len(domains), 12)
    for axis, domain in zip(axes, domains, strict=True):
        for at, (name, rows) in enumerate(recipes.items()):
            curves = [{int(k): one["by_domain"][domain] for k, one in row["recall_curve"].items()} for row in rows]
            depths = sorted(curves[0])
            heights = [float(np.mean([one[k] for one in curves])) for k in depths]
            axis.plot(depths, heights, ".-", ms=4, color=_color(at), label=name)
        axis.set_xscale("log")
        axis.set_xticks(depths, [str(one) for one in depths])
        axis.set_title(domain, fontsize="medium")
        axis.set_xlabel("k")
    axes[0].set_ylabel("recall@k")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _reliability(result: Result) -> Figure | None:
    """Deciles of the prediction: where a line is above the diagonal, clicks are more than was predicted. First seed."""
    first = {name: rows[0]["reliability"] for name, rows in grouped(result).items() if "reliability" in rows[0]}
    if not first:
        return None
    domains = _largest(result, lambda row: row["reliability"]["by_domain"])
    figure, axes = _grid(1 + len(domains), 12)
    for axis, domain in zip(axes, [None, *domains], strict=True):
        for at, (name, curves) in enumerate(first.items()):
            points = curves["overall"] if domain is None else curves["by_domain"].get(domain, [])
            line = [one["predicted"] for one in points], [one["observed"] for one in points]
            axis.plot(*line, ".-", ms=4, lw=1, color=_color(at), label=name)
        axis.axline((0, 0), slope=1, color="black", lw=0.8, ls=":")
        axis.set_title(domain or "all domains", fontsize="medium")
        axis.set_xlabel("predicted")
    axes[0].set_ylabel("observed")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _attribution(result: Result) -> Figure | None:
    """Of the first seed of the first recipe that remembers features: the most sensitive of each kind."""
    row = next((row for row in result["rows"] if "attribution" in row), None)
    if row is None:
        return None
    return attribution_figure([DomainSensitivity(**one) for one in row["attribution"] if one["rank"] < _FEATURES])


def _rank_movement(result: Result) -> Figure | None:
    """Ranks by Integrated Gradients in the shared DNN (left) and in the model (right); the remembered features in colour, of the
    others those that are among the first in either."""
    rows = [row for row in result["rows"] if "rank_movement" in row and row["seed"] == result["rows"][0]["seed"]][:3]
    if not rows:
        return None
    figure, axes = _grid(len(rows), min(len(rows[0]["rank_movement"]), 2 * _FEATURES))
    for axis, row in zip(axes, rows, strict=True):
        for name, rank in row["rank_movement"].items():
            own, ends = name in row["sensitive_features"], [rank["before"], rank["after"]]
            if min(ends) > _FEATURES and not own:
                continue
            axis.plot([0, 1], ends, "o-", ms=3, color=_WARM if own else _PALE, zorder=2 if own else 1)
            for place, align in ((0, "right"), (1, "left")):
                text = f"{name}  " if place == 0 else f"  {name}"
                axis.text(place, ends[place], text, ha=align, va="center", fontsize="x-small", color=_WARM if own else "black")
        axis.invert_yaxis()
        axis.set_xlim(-0.9, 1.9)
        axis.set_xticks([0, 1], ["shared DNN", row["recipe"]])
        axis.set_ylabel("rank by mean |Integrated Gradients|")
    return figure


def _adaptation(result: Result) -> Figure | None:
    """A colour a domain and field, after ADI's Fig. 5; first recipe and seed that has them."""
    row = next((row for row in result["rows"] if "adaptation_weights" in row), None)
    if row is None:
        return None
    sides = row["adaptation_weights"]
    figure = Figure(figsize=(9, 2.2 + 0.3 * sum(len(one) for one in sides.values())), layout="constrained")
    axes = figure.subplots(len(sides), 1, squeeze=False)[:, 0]
    for axis, (side, by_domain) in zip(axes, sides.items(), strict=True):
        fields = list(next(iter(by_domain.values())))
        weight_DF = np.array([[one[field] for field in fields] for one in by_domain.values()])
        reach = float(max(1e-9, np.abs(weight_DF - 1.0).max()))
        image = axis.imshow(weight_DF, aspect="auto", cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach)
        axis.set_xticks(range(len(fields)), fields, rotation=45, ha="right", fontsize="small")
        axis.set_yticks(range(len(by_domain)), list(by_domain))
        axis.set_title(f"{row['recipe']}, {side} tower: weight a field", fontsize="medium")
        figure.colorbar(image, ax=axis)
        if len(fields) <= _MANY_FIELDS:
            for (line, column), weight in np.ndenumerate(weight_DF):
                axis.text(column, line, f"{weight:.2f}", ha="center", va="center", fontsize="small")
    return figure


_FIGURES: dict[str, Callable[[Result], Figure | None]] = {
    "AUC by domain": _auc,
    "Differences": _differences,
    "AUC against FLOPs": _auc_against_flops,
    "Recall@50 by domain": _recall,
    "Recall@10 of candidates by domain": _on_candidates,
    "Recall curves": _recall_curves,
    "Calibration by domain": _calibration,
    "Reliability": _reliability,
    "Domain sensitivity": _attribution,
    "Rank movement": _rank_movement,
    "Adaptation weights": _adaptation,
}


def _largest(result: Result, pick: Pick) -> list[str]:
    """The domains with most events of those to be shown, in the order of the data."""
    support = result["rows"][0]["support"]
    domains = [one for one in result.get("score_domains", ()) if one in domains_of(result, pick)] or domains_of(result, pick)
    most = sorted(domains, key=lambda one: -support[one]["events"])[:_DOMAINS]
    return [one for one in domains if one in most]


def _grid(panels: int, lines: int, share: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """Panels beside each other, tall enough for so many lines of text."""
    figure = Figure(figsize=(max(5.0, 1.5 + 2.4 * panels), max(2.4, 1.0 + 0.24 * lines)), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, panels, sharey=share, squeeze=False)[0]
    for axis in axes:
        axis.grid(axis="x", color="#e8edf2")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize="small")
    return figure, axes


def _name_lines(axis: Axes, names: Any) -> None:
    axis.set_yticks(range(len(names)), list(names))
    axis.set_ylim(len(names) - 0.5, -0.5)


def _color(at: int) -> Any:
    return matplotlib.colormaps["tab20"](at % 20)
