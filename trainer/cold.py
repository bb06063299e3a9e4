"""How a ranker does where history is missing: its AUC on the test rows of strangers and of new ads.

Every row is in one slice by its user and in one by its ad: `known_*` has impressions before the test in the row's domain,
`new_here_*` elsewhere only, `new_*` nowhere. The AUC to read is `weighted_domain`: within domains, weighted by impressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import pointwise
from trainer.scoring import Scored
from trainer.tables import Tables

_OF = {"users": "user_row", "ads": "ad_row"}


def cold_auc(scored: Scored, tables: Tables, before: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{slice: {"rows", "positives", and what `auc` has}}; a slice without both classes in any domain is left out. before: the
    splits that the model has seen."""
    found = {}
    for name, rows in _slices(scored, tables, before).items():
        label = scored.label[rows]
        measured = pointwise(label, scored.logit[rows], scored.domain[rows], tables.domains).get("auc", {})
        if "weighted_domain" in measured:
            found[name] = {"rows": int(rows.sum()), "positives": int((label > 0).sum()), **measured}
    return found


def _slices(scored: Scored, tables: Tables, before: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    domains = len(tables.domains)
    seen_domain = np.concatenate([tables.column(one, "domain") for one in before]).astype(np.int64)
    found: dict[str, NDArray[np.bool_]] = {}
    for side, column in _OF.items():
        seen = np.concatenate([tables.column(one, column) for one in before]).astype(np.int64)
        own: NDArray[np.int64] = getattr(scored, column)
        anywhere = np.isin(own, seen)
        here = np.isin(own * domains + scored.domain, seen * domains + seen_domain)
        found |= {f"known_{side}": here, f"new_here_{side}": anywhere & ~here, f"new_{side}": ~anywhere}
    return found
