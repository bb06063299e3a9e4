"""An arm that explores: its slate is drawn instead of taken, and the chances go to the ledger (abtest/explore.py)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from abtest.explore import Explore
from contracts.errors import BadInput
from server.stages import Work

_log = logging.getLogger("mdrec.server")

RUNG = "explore"


def explore(work: Work, params: Mapping[str, Any], k: int, request_id: str, user_id: str) -> None:
    """Draw the slate of a ranked request anew: the same request draws the same one, on any worker. Where nothing ranked, or
    the arm's params are no exploration, the slate stays as it was selected, without propensities, and is marked degraded."""
    try:
        wanted = Explore.of(params)
    except BadInput as error:  # refused when written (abtest/check.py): somebody wrote past the store
        _log.warning("an arm does not explore: %s", error.message)
        wanted = None
    if wanted is None or work.p_click is None:
        work.degraded.append(RUNG)
        return
    drawn = wanted.draw(work.rank_scores, k, f"{request_id}\n{user_id}")
    work.chosen, work.propensities = drawn.chosen, drawn.propensities
