"""Requests of the made-up world: any of its users, in any of its domains, in any context."""

from __future__ import annotations

from typing import Any

import numpy as np

from loadtests.traffic import Traffic

_ROWS = 20_000  # to draw from


def world_traffic(facts: dict[str, Any], seed: int) -> Traffic:
    """facts: what world.json says."""
    random = np.random.default_rng(seed)
    users = [str(one) for one in random.integers(0, facts["asked"]["users"], _ROWS)]
    domains = [str(one) for one in random.choice(facts["domains"], _ROWS)]
    values = random.integers(0, facts["levels"], (_ROWS, len(facts["context"])))
    contexts = [dict(zip(facts["context"], map(str, one), strict=True)) for one in values.tolist()]
    return Traffic(users, domains, contexts, {}, random)
