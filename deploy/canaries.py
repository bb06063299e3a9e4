"""What the ledger says of running canaries: clicks and revenue of their two sides, by intervals that hold at every look.

Noted in Redis, where the gateway's watcher reads it at its next look and rolls back what is surely worse (canary_watch.py). The
collector does this after each of its rounds, the night once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import redis

from abtest.analyze import report
from abtest.canary import CANARY, running
from abtest.canary_watch import Watcher
from abtest.definitions import Definitions, Rule
from abtest.experiments import ExperimentStore
from abtest.guardrails import Guardrail
from abtest.plan import Plan
from contracts.errors import MdrecError


def judge_canaries(home: Path, client: redis.Redis, say: Callable[[str], None]) -> None:
    """A canary whose ledger cannot be read keeps what was said of it before."""
    definitions = ExperimentStore(client).read().definitions
    for key, rule in running(definitions).items():
        try:
            found = business(home, definitions, key, rule)
        except MdrecError as error:
            say(f"canary {key}: the ledger was not read: {error}")
            continue
        Watcher(client).note_business(key, found)
        say(f"canary {key}: {'; '.join(one.reason for one in found) or 'no business guardrails'}")


def business(home: Path, definitions: Definitions, key: str, rule: Rule) -> list[Guardrail]:
    """Non-inferiority of each metric that the canary names, since it began. Its condition is one domain, so all the experiment's
    users are of that domain."""
    assert rule.canary is not None
    plan = Plan(
        guardrails={str(name): margin for name, margin in rule.canary.business.items()},
        planned_units=max(2 * rule.canary.users, 2),
    )
    return list(report(home / "events", definitions, key, plan).overall.arm(CANARY).guardrails)
