"""Conditions of publication: a bundle that fails one is not published, and yesterday's keeps serving.

Tonight's metrics are not measured on last night's days, so metrics of two nights cannot be compared as they are. What is
compared per domain is the lead over a reference that costs nothing and is measured on the same days: smoothed rates for
AUC, popularity for recall. Even the lead moves with the days (clicks on what a gateway chose to show are easier to count
and harder to retrieve), so a night is held back when it loses more than half of the live lead, beyond a tolerance that
grows where the domain is small: two standard errors of the difference, at least MIN_TOLERANCE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from contracts.manifest import Gate

MIN_TOLERANCE = 0.02  # AUC or recall; nights on unchanged data differ by less (seed to seed)
KEPT_SHARE = 0.5  # of the live bundle's lead
MIN_ROWS = 100  # fewer held-out rows (or users) of a domain say nothing: reported, not judged
MAX_DISAGREEMENT = 1e-4  # torch against ONNX Runtime, probability or embedding


def judge(row: Mapping[str, Any], live: Mapping[str, Any] | None, support: Mapping[str, int]) -> list[Gate]:
    """Gates on one evaluation row (as `evaluate --json` writes it, the reference's row under "reference"). live: the live
    bundle's row, or None on the first night. support: held-out positives by domain, which set the tolerance."""
    gates: list[Gate] = []
    for name, floor in (("auc", 0.5), ("recall@50", 0.0)):
        new = _by_domain(row, name)
        if not new:
            continue
        gates.append(_floor(name, new, floor, support))
        lead = _lead(row, name)
        for domain, live_lead in _lead(live, name).items():
            gates.append(_against_live(f"{name} lead", domain, lead.get(domain), live_lead, support))
    return gates


def agreement(differences: Mapping[str, float]) -> list[Gate]:
    """Exported graphs give what torch gives."""
    return [
        Gate(name=f"agreement:{graph}", value=value, threshold=MAX_DISAGREEMENT, passed=value <= MAX_DISAGREEMENT)
        for graph, value in sorted(differences.items())
    ]


def failures(gates: Iterable[Gate]) -> list[str]:
    """One line per failed gate."""
    return [
        f"{gate.name}{f' in {gate.domain}' if gate.domain else ''}: {_number(gate.value)} against {_number(gate.threshold)}"
        f"{f' ({gate.reason})' if gate.reason else ''}"
        for gate in gates
        if not gate.passed
    ]


def _floor(name: str, new: Mapping[str, float], floor: float, support: Mapping[str, int]) -> Gate:
    """The mean over judged domains must beat knowing nothing."""
    judged = [value for domain, value in new.items() if support.get(domain, 0) >= MIN_ROWS]
    if not judged:
        return Gate(
            name=f"{name}:mean", value=None, threshold=floor, passed=True, reason=f"no domain has {MIN_ROWS} held-out positives"
        )
    mean = sum(judged) / len(judged)
    return Gate(name=f"{name}:mean", value=mean, threshold=floor, passed=mean > floor)


def _against_live(name: str, domain: str, new: float | None, live: float, support: Mapping[str, int]) -> Gate:
    positives = support.get(domain, 0)
    if new is None or positives < MIN_ROWS:
        why = f"{positives} held-out positives, {MIN_ROWS} are needed to judge"
        return Gate(name=name, domain=domain, value=new, live=live, threshold=None, passed=True, reason=why)
    tolerance = max(MIN_TOLERANCE, 2.0 * math.sqrt(2.0 * 0.25 / positives))
    threshold = min(live, KEPT_SHARE * live) - tolerance
    return Gate(name=name, domain=domain, value=new, live=live, threshold=threshold, passed=new >= threshold)


def _lead(row: Mapping[str, Any] | None, name: str) -> dict[str, float]:
    """By domain, how far the row is above its reference on the same days."""
    reference = _by_domain((row or {}).get("reference"), name)
    return {domain: value - reference[domain] for domain, value in _by_domain(row, name).items() if domain in reference}


def _by_domain(row: Mapping[str, Any] | None, name: str) -> dict[str, float]:
    if row is None:
        return {}
    found = row.get("auc", {}) if name == "auc" else row.get("recall", {}).get("50", {})
    return dict(found.get("by_domain", {}))


def _number(value: float | None) -> str:
    return "not computed" if value is None else f"{value:.4g}"
