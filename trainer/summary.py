"""An evaluation as tables of text: a line a recipe, mean ± standard deviation over seeds; differences with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Pick = Callable[[Row], Any]
Table = tuple[list[str], list[list[str]]]  # header, body

_COLUMNS: dict[str, Pick] = {
    "AUC mean (scored)": lambda row: row["auc"]["scored"],
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
BY_DOMAIN: dict[str, Pick] = {
    "AUC by domain": lambda row: row["auc"]["by_domain"],
    "Log-loss by domain": lambda row: row["logloss"]["by_domain"],
    "Calibration by domain (predicted / observed)": lambda row: row["calibration"]["by_domain"],
    "Recall@50 by domain": lambda row: row["recall"]["50"]["by_domain"],
    "nDCG@10 by domain": lambda row: row["ndcg@10"]["by_domain"],
    "Recall@10 of candidates by domain": lambda row: row["recall_candidates"]["10"]["by_domain"],
}


def grouped(result: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows by recipe, in the order asked for."""
    found: dict[str, list[Row]] = {}
    for row in result["rows"]:
        found.setdefault(row["recipe"], []).append(row)
    return found


def values(rows: list[Row], pick: Pick) -> list[Any]:
    """What the rows have of it; a row that lacks it adds nothing."""
    found = []
    for row in rows:
        try:
            found.append(pick(row))
        except KeyError:
            continue
    return found


def overview(result: Mapping[str, Any]) -> Table:
    by_recipe = grouped(result)
    columns = [name for name, pick in _COLUMNS.items() if any(values(rows, pick) for rows in by_recipe.values())]
    body = [
        [recipe, str(len(rows)), *(_spread(values(rows, _COLUMNS[name]), name in _WHOLE) for name in columns)]
        for recipe, rows in by_recipe.items()
    ]
    return ["recipe", "seeds", *columns], body


def domain_table(result: Mapping[str, Any], pick: Pick) -> Table:
    """A line a recipe, a column a domain that any of them could be measured in; first what it rests on. Empty when none was."""
    domains = domains_of(result, pick)
    body = [
        [recipe, *(_spread(values(rows, lambda row, domain=domain: pick(row)[domain])) for domain in domains)]  # type: ignore[misc]
        for recipe, rows in grouped(result).items()
        if values(rows, pick)
    ]
    support = result["rows"][0]["support"] if body else {}
    rests_on = [
        [f"({what})", *(f"{support[domain][what]:,}" for domain in domains)] for what in ("events", "positives") if support
    ]
    return ["recipe", *domains], [*rests_on, *body] if body else []


def cold_table(result: Mapping[str, Any]) -> Table:
    """A line a recipe, a column a slice of trainer/cold.py: AUC within domains. Empty where nothing was sliced."""
    slices = domains_of(result, lambda row: row["cold"])
    body = [
        [recipe, *(_spread(values(rows, lambda row, one=one: row["cold"][one]["weighted_domain"])) for one in slices)]  # type: ignore[misc]
        for recipe, rows in grouped(result).items()
    ]
    size: Row = next((row["cold"] for row in result["rows"] if "cold" in row), {})
    rests_on = [
        [f"({what})", *(f"{size[one][what]:,}" if one in size else "" for one in slices)] for what in ("rows", "positives")
    ]
    return ["recipe", *slices], [*rests_on, *body] if slices else []


def domains_of(result: Mapping[str, Any], pick: Pick) -> list[str]:
    found: dict[str, None] = {}
    for row in result["rows"]:
        for by_domain in values([row], pick):
            found |= dict.fromkeys(by_domain)
    return list(found)


def difference_tables(result: Mapping[str, Any]) -> dict[str, Table]:
    """By title: every recipe against the one asked for, its AUC by domain, and the best of each metric against the others."""
    paired, tables = result.get("paired", []), {}
    metrics = list(dict.fromkeys(one["metric"] for one in paired))
    against = result.get("against")
    means = [(metric, scope) for metric in metrics for scope in ("scored", "mean")]
    tables[f"Difference to {against}"] = _differences(paired, against, means)
    inside = [("auc", one["scope"]) for one in paired if one["metric"] == "auc" and one["scope"] not in ("scored", "mean")]
    tables[f"AUC difference to {against} by domain"] = _differences(paired, against, list(dict.fromkeys(inside)))
    for metric in metrics:
        others = [
            one for one in paired if one["metric"] == metric and one["against"] != against and one["scope"] in ("scored", "mean")
        ]
        for best in dict.fromkeys(one["recipe"] for one in others):
            own = [{**one, "recipe": one["against"], "against": best} for one in others if one["recipe"] == best]
            scopes = [(metric, scope) for scope in ("scored", "mean")]
            tables[f"{best}, the best by {metric}, minus each other"] = _differences(own, best, scopes)
    return {title: table for title, table in tables.items() if table[1]}


def notes(result: Mapping[str, Any]) -> list[str]:
    """What was left out: each reason once, however many recipes and seeds share it."""
    found: dict[str, None] = {}
    for row in result["rows"]:
        reasons = {**row.get("skipped", {}), "recall": row.get("skipped_recall", {})}
        for metric, by_domain in reasons.items():
            found |= {f"{metric} in {domain}: {reason}": None for domain, reason in by_domain.items()}
    return [*(f"{trial} failed: {why}" for trial, why in result.get("failed", {}).items()), *found]


def _differences(paired: list[dict[str, Any]], against: Any, columns: list[tuple[str, str]]) -> Table:
    found = {(one["metric"], one["scope"], one["recipe"]): one for one in paired if one["against"] == against}
    columns = [one for one in columns if any(key[:2] == one for key in found)]
    recipes = list(dict.fromkeys(key[2] for key in found))
    body = [[name, *(_interval(found.get((*column, name))) for column in columns)] for name in recipes]
    return ["recipe", *(f"{metric} {scope}" for metric, scope in columns)], body if columns else []


def _interval(one: Mapping[str, Any] | None) -> str:
    """A star where 0 is outside."""
    if one is None:
        return ""
    star = " *" if one["low"] > 0 or one["high"] < 0 else ""
    spread = "" if one["spread"] is None else f" ± {one['spread']:.4f}"
    return f"{one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]{star}{spread}"


def _spread(found: list[float], whole: bool = False) -> str:
    if not found:
        return ""
    mean, deviation = float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    text = f"{mean:,.0f}" if whole else f"{mean:.4f}"
    if len(found) == 1 or (whole and deviation < 0.5):
        return text
    return f"{text} ± {deviation:,.0f}" if whole else f"{text} ± {deviation:.4f}"
