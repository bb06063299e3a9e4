"""An offset on the logit of each domain, so that what a ranker predicts there is on average what happens there.

    offset_d = argmax_o  sum_i w_i log P(y_i | logit_i + o) - strength / 2 o^2,    w_i = 2^(-age_i / half-life)

The mode under a normal prior around 0 of variance 1 / strength: a domain without rows keeps 0, one with few hardly moves. The
order within a domain stays.

It is fitted on the latest rows that the finished model has seen. On held-out rows alone, before the model learns them, it made
things worse: one day's click rate is not the next one's, and learning that day corrects the same error again. KuaiRand-Pure
without its last two days, three cuts in time, eleven fits of shared DNN, DFEI and LightGBM: mean |log(predicted / observed)| of
tabs 0, 1, 2, 4, 6 .056 without offsets, .059 with those of the held-out day, .046 so; log-loss +20e-5 and -34e-5. With a slope a
domain as well, fitted alike, +119e-5: on rows that were learned any model looks too timid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from trainer.feature_store import last_time, stored_vectors
from trainer.layers import Ranker
from trainer.scoring import SCORE_ROWS, device_of
from trainer.tables import DAY_MS, Tables

# In these fits half a day and 1 day .045, 2 days .046, 4 days .050, but the less the more one odd day counts (tab 2 .049, .034).
HALF_LIFE_DAYS = 2.0
# In units of p (1 - p) summed over rows. 1, 5, 20: log-loss -48e-5, -34e-5, -23e-5, calibration the same. What differs are tabs
# of a few dozen rows, the same ones in every cut, so not the weakest.
STRENGTH = 5.0
_DOMAIN_ROWS = 20_000  # the latest of a domain: its offset is then known to .02
_STEPS = 100
_CLOSE = 1e-9

Numbers = NDArray[Any]


@torch.no_grad()
def calibrate(model: Ranker, tables: Tables, splits: Sequence[str]) -> None:
    """Sets the model's offsets by the latest rows of `splits`, which follow one another in time, served as they would be."""
    model.eval()
    serve, where = stored_vectors(model, tables, splits) or model.serving_inputs, device_of(model)
    last = last_time(tables, splits)
    parts: list[tuple[Numbers, ...]] = []
    for split, rows in _latest(tables, splits).items():
        for start in range(0, len(rows), SCORE_ROWS):
            batch = tables.batch(split, rows[start : start + SCORE_ROWS]).to(where)
            found = (batch.label, model(serve(batch)), batch.inputs.domain, batch.time)
            parts.append(tuple(one.cpu().numpy() for one in found))
    label_N, logit_N, domain_N, time_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    weight_N = 0.5 ** ((last - time_N) / (HALF_LIFE_DAYS * DAY_MS))
    offset_D = offsets(label_N, logit_N, domain_N, weight_N, len(tables.domains), STRENGTH)
    model.offset_D.copy_(torch.from_numpy(offset_D))


def offsets(
    label_N: Numbers, logit_N: Numbers, domain_N: Numbers, weight_N: Numbers, domains: int, strength: float
) -> NDArray[np.float64]:
    """offset_D by Newton's method, all domains at once, at most 1 a step: far from it the log-likelihood is all but straight."""
    logit_N, offset_D = logit_N.astype(np.float64), np.zeros(domains)
    for _ in range(_STEPS):
        p_N = expit(logit_N + offset_D[domain_N])
        slope_D = np.bincount(domain_N, weight_N * (label_N - p_N), domains) - strength * offset_D
        curvature_D = np.bincount(domain_N, weight_N * p_N * (1.0 - p_N), domains) + strength
        step_D = np.clip(slope_D / curvature_D, -1.0, 1.0)
        offset_D += step_D
        if np.abs(step_D).max() < _CLOSE:
            break
    return offset_D


def _latest(tables: Tables, splits: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Of each split the rows that are among the latest of their domain, rising."""
    found: dict[str, list[NDArray[np.int64]]] = {split: [] for split in splits}
    for domain in range(len(tables.domains)):
        wanted = _DOMAIN_ROWS
        for split in reversed(splits):
            rows = tables.domain_rows(split, domain)
            by_time = np.argsort(tables.column(split, "time")[rows], kind="stable")
            taken = np.sort(rows[by_time[max(0, len(rows) - wanted) :]])
            found[split].append(taken)
            wanted -= len(taken)
    return {split: np.concatenate(rows) for split, rows in found.items()}
