"""How good: AUC, log-loss, calibration per domain; recall and nDCG over ranked lists. A number that cannot be computed is
absent, with the reason beside it; it is never 0 or NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from contracts.errors import BadInput

Numbers = NDArray[Any]


def auc(label_B: Numbers, score_B: Numbers) -> float:
    """P(a random positive scores above a random negative), ties counting half (the Mann-Whitney statistic by mid-ranks).
    Raises BadInput when one class is absent."""
    positive = label_B > 0
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        raise BadInput(f"AUC needs both classes; {n_positive} of {n} labels are positive")
    ranks = rankdata(score_B)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive)))


def logloss(label_B: Numbers, logit_B: Numbers) -> float:
    """Mean negative log-likelihood in nats, from logits, so that no probability is clipped."""
    logit = logit_B.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, logit) - label_B * logit))


def reliability(label_B: Numbers, logit_B: Numbers, bins: int = 10) -> list[dict[str, float]]:
    """The rows in `bins` equal parts by predicted probability: mean predicted, mean observed and rows of each, lowest first.
    Fewer parts where rows are fewer."""
    if len(label_B) == 0:
        return []
    order = np.argsort(logit_B, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    predicted_B = expit(logit_B.astype(np.float64))
    return [
        {"predicted": float(predicted_B[one].mean()), "observed": float(label_B[one].mean()), "rows": len(one)} for one in parts
    ]


def pointwise(
    label_B: Numbers, logit_B: Numbers, domain_B: Numbers, domains: Sequence[str], probabilities: bool = True
) -> dict[str, Any]:
    """auc, and where the logits mean probabilities also logloss and calibration (mean predicted / mean observed): each
    overall, by_domain and their means, plain and weighted by impressions. `skipped` says what is absent and why."""
    found: dict[str, dict[str, float]] = {"auc": {}, "logloss": {}, "calibration": {}}
    skipped: dict[str, dict[str, str]] = {"auc": {}, "calibration": {}}
    weights: dict[str, int] = {}
    groups: list[tuple[str, Any]] = [(name, domain_B == number) for number, name in enumerate(domains)]
    for name, rows in (*groups, (_OVERALL, np.ones(len(label_B), dtype=bool))):
        label, logit = label_B[rows], logit_B[rows]
        positives = int((label > 0).sum())
        weights[name] = len(label)
        if len(label) == 0:
            skipped["auc"][name] = skipped["calibration"][name] = "no impressions"
            continue
        if 0 < positives < len(label):
            found["auc"][name] = auc(label, logit)
        else:
            skipped["auc"][name] = f"{'no' if positives == 0 else 'only'} positives among {len(label)} impressions"
        found["logloss"][name] = logloss(label, logit)
        if positives:
            found["calibration"][name] = float(expit(logit.astype(np.float64)).mean() / label.mean())
        else:
            skipped["calibration"][name] = f"no positives among {len(label)} impressions"
    result: dict[str, Any] = {"auc": _summary(found["auc"], weights)}
    if probabilities:
        result["logloss"] = _summary(found["logloss"], weights)
        result["calibration"] = _summary(found["calibration"], weights)
    else:
        skipped.pop("calibration")
    result["skipped"] = {name: reasons for name, reasons in skipped.items() if reasons}
    return {name: value for name, value in result.items() if value}


_OVERALL = "overall"


def _summary(values: dict[str, float], weights: Mapping[str, int] | None = None) -> dict[str, Any]:
    """{"overall", "mean_domain", "weighted_domain" (with weights), "by_domain"}, each only where it exists."""
    by_domain = {name: value for name, value in values.items() if name != _OVERALL}
    summary: dict[str, Any] = {_OVERALL: values[_OVERALL]} if _OVERALL in values else {}
    if by_domain:
        summary["mean_domain"] = float(np.mean(list(by_domain.values())))
        if weights is not None:
            total = sum(weights[name] for name in by_domain)
            summary["weighted_domain"] = sum(value * weights[name] for name, value in by_domain.items()) / total
        summary["by_domain"] = by_domain
    return summary


def over_domains(by_domain: Mapping[str, float]) -> dict[str, Any]:
    """{"mean_domain", "by_domain"}; empty when nothing was measured."""
    return _summary(dict(by_domain))


def recalls(hit_BK: Numbers, relevant_B: Numbers, k: int) -> Numbers:
    """(B,): |top-k and relevant| / |relevant| of each list. hit_BK: whether each rank holds a relevant ad; relevant_B > 0."""
    return np.asarray(hit_BK[:, :k].sum(axis=1) / relevant_B)


def ndcgs(hit_BK: Numbers, relevant_B: Numbers, k: int) -> Numbers:
    """(B,): DCG@k / the best possible DCG@k of each list, binary gains."""
    depth = min(k, hit_BK.shape[1])
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(relevant_B, k).astype(np.int64) - 1]
    return np.asarray((hit_BK[:, :depth] * discount[:depth]).sum(axis=1) / ideal)


def recall(hit_BK: Numbers, relevant_B: Numbers, k: int) -> float:
    """Mean of `recalls`."""
    return float(recalls(hit_BK, relevant_B, k).mean())


def ndcg(hit_BK: Numbers, relevant_B: Numbers, k: int) -> float:
    """Mean of `ndcgs`."""
    return float(ndcgs(hit_BK, relevant_B, k).mean())


def ranked(score_BC: Numbers, valid_BC: Numbers, seed: int) -> Numbers:
    """Columns of each row, best score first, ties in an order drawn with `seed`, invalid columns last: (B, C) int64."""
    tie_BC = np.random.default_rng(seed).random(score_BC.shape)
    return np.lexsort((tie_BC, np.where(valid_BC, -score_BC.astype(np.float64), np.inf)), axis=1)
