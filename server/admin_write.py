"""One way to write what lies in the definitions of experiments: versioned, on record, told to this worker at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query, Response

from abtest.definitions import Definitions
from abtest.experiments import Amend, ExperimentStore, Snapshot, differences
from server.admin_ads import version_named
from server.errors import Problem
from server.gateway import Gateway

T = TypeVar("T")
Diff = dict[str, list[Any]]
DryRun = Annotated[bool, Query(description="check and answer the diff, store nothing")]


class OffLoop(Protocol):
    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Writer:
    def __init__(self, gateway: Gateway, store: ExperimentStore, off_loop: OffLoop) -> None:
        self._gateway, self._store, self._off_loop = gateway, store, off_loop

    async def change(
        self, response: Response, amend: Amend, who: str, why: str, expected: int | None, dry_run: bool
    ) -> tuple[Snapshot, Diff]:
        """What is now stored, whose ETag the response gets, and what changed; of a dry run, what would be. expected: the version
        it is made from, None for any. Raises a Problem for one that has moved on."""

        def work() -> tuple[Snapshot, Diff]:
            if dry_run:
                return self._store.rehearse(amend, expected)
            diff: Diff = {}

            def watched(now: Definitions) -> Definitions:
                nonlocal diff
                after = amend(now)
                diff = differences(now, after)
                return after

            return self._store.change(watched, who=who, why=why, expected_version=expected), diff

        after, diff = await self._off_loop(work)
        if not dry_run:
            await self._gateway.experiments.refresh()
            response.headers["ETag"] = f'"{after.version}"'
        return after, diff

    async def __call__(
        self, response: Response, amend: Amend, who: str, why: str, if_match: str | None, dry_run: bool
    ) -> dict[str, Any]:
        """For what lies beside the experiments: version and diff."""
        after, diff = await self.change(response, amend, who, why, expected_version(if_match, dry_run), dry_run)
        return {"version": after.version, "diff": diff, "dry_run": dry_run}


def expected_version(if_match: str | None, dry_run: bool = False) -> int | None:
    """The version that a write names. Raises 428 where it names none and is no rehearsal."""
    if if_match is None and not dry_run:
        raise Problem(428, "precondition-required", "send `If-Match` with the ETag of the definitions you read", field="If-Match")
    return version_named(if_match)
