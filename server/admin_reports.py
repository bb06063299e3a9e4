"""What the last report said of an experiment: /admin/v1/experiments/{key}/report.

Reports are made by the night and by `mdrec ab report`, never here: they read the whole ledger, and these workers answer users.
"""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Response

from abtest.experiments import ExperimentStore
from abtest.report_models import ReportData, read_report
from contracts.errors import WorkFailed
from server.admin_write import OffLoop
from server.errors import Problem
from server.gateway import Gateway
from server.polling import IfNoneMatch, answers, polled

AGES = frozenset({"age_seconds"})


class ReportAnswer(ReportData):
    """age_seconds: since the report was made."""

    age_seconds: float


def add(routes: APIRouter, gateway: Gateway, store: ExperimentStore, off_loop: OffLoop) -> None:
    home = gateway.settings.home

    @routes.get("/experiments/{key:path}/report", response_model=ReportAnswer, responses=answers(404, 500))
    async def report(key: str, if_none_match: IfNoneMatch = None) -> Response:
        """The latest report: estimates, intervals, the split's health, guardrails and the decision, with its age."""

        def work() -> Response:
            found = _read(key)
            age = (datetime.now(UTC) - found.made_at).total_seconds()
            return polled(ReportAnswer(**dict(found), age_seconds=max(age, 0.0)), if_none_match, AGES)

        def _read(key: str) -> ReportData:
            try:
                found = read_report(home, key)
            except WorkFailed as error:
                raise Problem(500, "report-damaged", str(error)) from None
            if found is not None:
                return found
            known = sorted(store.read().definitions.experiments())
            if key not in known:
                detail = f"no experiment {key!r}; known: {', '.join(known) or 'none yet'}"
                raise Problem(404, "unknown-experiment", detail, known=known)
            raise Problem(404, "no-report", f"no report of {key!r} yet; the night makes one, or: mdrec ab report {key}")

        return await off_loop(work)
