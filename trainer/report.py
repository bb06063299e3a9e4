"""An evaluation for people: a Markdown table for the terminal, an HTML page with plots for the desk."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]

_COLUMNS: dict[str, Callable[[Row], Any]] = {
    "AUC mean": lambda row: row["auc"]["mean_domain"],
    "AUC weighted": lambda row: row["auc"]["weighted_domain"],
    "AUC overall": lambda row: row["auc"]["overall"],
    "log-loss": lambda row: row["logloss"]["overall"],
    "calibration": lambda row: row["calibration"]["overall"],
    "R@10": lambda row: row["recall"]["10"]["mean_domain"],
    "R@50": lambda row: row["recall"]["50"]["mean_domain"],
    "R@100": lambda row: row["recall"]["100"]["mean_domain"],
    "nDCG@10": lambda row: row["ndcg@10"]["mean_domain"],
    "R@10 of candidates": lambda row: row["recall_candidates"]["10"]["mean_domain"],
    "nDCG@10 of candidates": lambda row: row["ndcg_candidates@10"]["mean_domain"],
    "FLOPs/candidate": lambda row: row["flops_per_candidate"],
    "parameters": lambda row: row["parameters"],
    "rows/s": lambda row: row["train_rows_per_second"],
    "seconds": lambda row: row["train_seconds"],
}
_WHOLE = ("FLOPs/candidate", "parameters", "rows/s", "seconds")
_BY_DOMAIN: dict[str, Callable[[Row], Mapping[str, float]]] = {
    "AUC by domain": lambda row: row["auc"]["by_domain"],
    "Calibration by domain (predicted / observed)": lambda row: row["calibration"]["by_domain"],
    "Recall@50 by domain": lambda row: row["recall"]["50"]["by_domain"],
    "Recall@10 of candidates by domain": lambda row: row["recall_candidates"]["10"]["by_domain"],
}


def to_markdown(result: Mapping[str, Any]) -> str:
    """A line a recipe (mean ± standard deviation over seeds), then its AUC or recall by domain, then what was left out."""
    lines = [f"**{result['dataset']}**: {result['protocol']}", "", *_markdown(*_overview(result))]
    for title, pick in _BY_DOMAIN.items():
        header, body = _domain_table(result, pick)
        if body:
            lines += ["", f"{title}", "", *_markdown(header, body)]
    notes = _skipped(result)
    return "\n".join([*lines, *(["", "Left out:", *(f"- {one}" for one in notes)] if notes else [])]) + "\n"


def to_html(result: Mapping[str, Any]) -> str:
    """A page of its own: no script, no file and no address outside it."""
    parts = [f"<h1>{html.escape(result['dataset'])}</h1>", f"<p>{html.escape(result['protocol'])}</p>", _html(*_overview(result))]
    for title, pick in _BY_DOMAIN.items():
        header, body = _domain_table(result, pick)
        if body:
            parts += [f"<h2>{html.escape(title)}</h2>", _plot(result, pick, title), _html(header, body)]
    notes = "".join(f"<li>{html.escape(one)}</li>" for one in _skipped(result))
    parts.append(f"<h2>Left out</h2><ul>{notes}</ul>" if notes else "")
    return _PAGE.format(title=html.escape(f"Evaluation of {result['dataset']}"), body="\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1d2733 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; display: block; overflow-x: auto }}
th, td {{ border-bottom: 1px solid #d5dce4; padding: .3rem .7rem; text-align: right; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100% }}
</style></head><body>
{body}
</body></html>
"""


def _recipes(result: Mapping[str, Any]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in result["rows"]:
        grouped.setdefault(row["recipe"], []).append(row)
    return grouped


def _overview(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    grouped = _recipes(result)
    columns = [name for name, pick in _COLUMNS.items() if any(_values(rows, pick) for rows in grouped.values())]
    body = [
        [recipe, str(len(rows)), *(_spread(_values(rows, _COLUMNS[name]), name in _WHOLE) for name in columns)]
        for recipe, rows in grouped.items()
    ]
    return ["recipe", "seeds", *columns], body


def _domain_table(result: Mapping[str, Any], pick: Callable[[Row], Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    domains = _domains(result, pick)
    body = [
        [recipe, *(_spread(_values(rows, lambda row, domain=domain: pick(row)[domain])) for domain in domains)]  # type: ignore[misc]
        for recipe, rows in _recipes(result).items()
        if _values(rows, pick)
    ]
    return ["recipe", *domains], body


def _domains(result: Mapping[str, Any], pick: Callable[[Row], Mapping[str, float]]) -> list[str]:
    found: dict[str, None] = {}
    for row in result["rows"]:
        for values in _values([row], pick):
            found |= dict.fromkeys(values)
    return list(found)


def _values(rows: list[Row], pick: Callable[[Row], Any]) -> list[Any]:
    """What the rows have of it; a row that lacks it adds nothing."""
    found = []
    for row in rows:
        try:
            found.append(pick(row))
        except KeyError:
            continue
    return found


def _spread(values: list[float], whole: bool = False) -> str:
    if not values:
        return ""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    text = f"{mean:,.0f}" if whole else f"{mean:.4f}"
    if len(values) == 1 or (whole and deviation < 0.5):
        return text
    return f"{text} ± {deviation:,.0f}" if whole else f"{text} ± {deviation:.4f}"


def _skipped(result: Mapping[str, Any]) -> list[str]:
    """Each reason once, however many recipes and seeds share it."""
    found: dict[str, None] = {}
    for row in result["rows"]:
        reasons = {**row.get("skipped", {}), "recall": row.get("skipped_recall", {})}
        for metric, by_domain in reasons.items():
            found |= {f"{metric} in {domain}: {reason}": None for domain, reason in by_domain.items()}
    return list(found)


def _markdown(header: list[str], body: list[list[str]]) -> list[str]:
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return ["| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in cells]


def _html(header: list[str], body: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(one)}</{tag}>" for one in cells) + "</tr>"

    return f"<table><thead>{line(header, 'th')}</thead><tbody>{''.join(line(one, 'td') for one in body)}</tbody></table>"


def _plot(result: Mapping[str, Any], pick: Callable[[Row], Mapping[str, float]], title: str) -> str:
    """Bars by domain, one colour a recipe, as an image inside the page."""
    from matplotlib.figure import Figure  # only a report needs it, and it is slow to import

    domains = _domains(result, pick)
    grouped = {recipe: rows for recipe, rows in _recipes(result).items() if _values(rows, pick)}
    figure = Figure(figsize=(max(6.0, 0.9 * len(domains)), 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(grouped)
    for place, (recipe, rows) in enumerate(grouped.items()):
        per_domain = [_values(rows, lambda row, domain=domain: pick(row)[domain]) for domain in domains]  # type: ignore[misc]
        heights = [float(np.mean(one)) if one else 0.0 for one in per_domain]
        errors = [float(np.std(one, ddof=1)) if len(one) > 1 else 0.0 for one in per_domain]
        axis.bar(np.arange(len(domains)) + place * width - 0.4 + width / 2, heights, width, yerr=errors, label=recipe)
    axis.set_xticks(np.arange(len(domains)), domains)
    axis.set_ylabel(title)
    axis.legend(frameon=False, fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'
