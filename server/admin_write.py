"""One way to write what lies in the definitions of experiments: versioned, on record, told to this worker at once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response

from abtest.definitions import Definitions
from abtest.experiments import Amend, ExperimentStore, Snapshot, differences
from server.admin_experiments import OffLoop, expected_version
from server.gateway import Gateway

Json = dict[str, Any]
DryRun = Annotated[bool, Query(description="check and answer the diff, store nothing")]


class Writer:
    def __init__(self, gateway: Gateway, store: ExperimentStore, off_loop: OffLoop) -> None:
        self._gateway, self._store, self._off_loop = gateway, store, off_loop

    async def __call__(self, response: Response, amend: Amend, who: str, why: str, if_match: str | None, dry_run: bool) -> Json:
        """Version and diff; the ETag of what is now stored. Raises a Problem for a version that has moved on."""
        expected = expected_version(if_match, dry_run)
        diff: dict[str, list[Any]] = {}

        def watched(now: Definitions) -> Definitions:
            nonlocal diff
            after = amend(now)
            diff = differences(now, after)
            return after

        def work() -> Snapshot:
            if dry_run:
                return self._store.rehearse(watched, expected)[0]
            return self._store.change(watched, who=who, why=why, expected_version=expected)

        after = await self._off_loop(work)
        if not dry_run:
            await self._gateway.experiments.refresh()
            response.headers["ETag"] = f'"{after.version}"'
        return {"version": after.version, "diff": diff, "dry_run": dry_run}
