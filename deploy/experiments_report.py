"""The night's last step: how do the experiments stand? A report a day and experiment, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import quote

import redis

from abtest import render_preference
from abtest.analyze import ExperimentReport, report
from abtest.experiments import ExperimentStore
from abtest.phases import phase_start
from abtest.plan import plan_of
from abtest.preference import PreferenceReport, preferences
from abtest.promote import decide
from abtest.render import to_markdown
from abtest.report_file import continues, report_data, series, words
from abtest.report_models import ReportData, read_report, write_report
from abtest.units import refresh
from contracts.errors import WorkFailed
from contracts.files import write_bytes
from deploy.canaries import judge_canaries

_CHANGES = 10_000  # of the audit trail, read back to find when an experiment's split last changed


def current_report(home: Path, client: redis.Redis, experiment: str) -> ExperimentReport:
    """By the declared plan, over the present phase; left as data for the operators' page, too (abtest/report_models.py).
    Raises BadInput for an experiment that is not defined."""
    store = ExperimentStore(client)
    definitions = store.read().definitions
    rule, plan = definitions.experiment(experiment), plan_of(home, experiment)
    since = phase_start(definitions, experiment, store.history(_CHANGES))

    def until(day: date | None) -> ExperimentReport:
        return report(home / "events", definitions, experiment, plan, since, day)

    found = until(None)
    before = _before(home, experiment)
    points = series(found, before if continues(before, found, rule, since) else None, until)
    write_report(home, report_data(found, rule, since, datetime.now(UTC), points))
    return found


def _before(home: Path, experiment: str) -> ReportData | None:
    """The last one; a damaged one is made anew from the ledger."""
    try:
        return read_report(home, experiment)
    except WorkFailed:
        return None


def current_preferences(home: Path, client: redis.Redis, experiment: str) -> list[PreferenceReport]:
    """Of the experiment's arms that interleave, over all days that their present recipes had: a request is its own control, so
    that other weights are no new phase. Raises BadInput for an experiment that is not defined."""
    definitions = ExperimentStore(client).read().definitions
    return preferences(home / "events", definitions, experiment, plan_of(home, experiment))


def report_experiments(home: Path, client: redis.Redis, say: Callable[[str], None]) -> dict[str, str]:
    """Make the units of the ledger's new days, write home/reports/<day>-<experiment>.md for each running experiment and say
    whether to promote, hold or roll back. Nothing is moved: an operator does
    that with `mdrec ab apply KEY`."""
    refresh(home / "events")
    verdicts: dict[str, str] = {}
    judge_canaries(home, client, say)
    for key, rule in ExperimentStore(client).read().definitions.experiments().items():
        if rule.status != "running" or not rule.active or rule.canary is not None:
            continue
        found = current_report(home, client, key)
        decision = decide(found)
        verdict = verdicts[key] = words(decision)
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        path = home / "reports" / f"{day}-{quote(key, safe='')}.md"
        interleaved = current_preferences(home, client, key)
        parts = [to_markdown(found), *map(render_preference.to_markdown, interleaved), f"{verdict}\n"]
        write_bytes(path, "\n".join(parts).encode())
        say(f"experiment {key}: {verdict}")
        for one in interleaved:
            say(f"experiment {key}: {render_preference.verdict(one)}")
    return verdicts
