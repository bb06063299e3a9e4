"""The night's last step: how do the experiments stand? A report a day and experiment, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import redis

from abtest.analyze import report
from abtest.experiments import ExperimentStore
from abtest.promote import decide
from abtest.render import to_markdown
from contracts.files import write_bytes


def report_experiments(home: Path, client: redis.Redis, say: Callable[[str], None]) -> None:
    """Write home/reports/<day>-<experiment>.md for each running experiment and say whether to promote, hold or roll back.
    Nothing is moved: an operator does that with `mdrec bundle alias champion RECIPE`."""
    definitions = ExperimentStore(client).read().definitions
    for key, rule in definitions.experiments().items():
        if rule.status != "running" or not rule.active:
            continue
        found = report(home / "events", definitions, key)
        decision = decide(found)
        verdict = f"{decision.action}{f' {decision.arm}' if decision.arm else ''}: {'; '.join(decision.reasons)}"
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        path = home / "reports" / f"{day}-{quote(key, safe='')}.md"
        write_bytes(path, f"{to_markdown(found)}\n{verdict}\n".encode())
        say(f"experiment {key}: {verdict}")
