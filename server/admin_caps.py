"""Operators cap how often a user is shown an ad: /admin/v1/caps.

Caps lie in the definitions of experiments: the ETag is theirs, a write names it in `If-Match`, is on record and reaches all
workers at once.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from abtest.caps import Cap
from abtest.definitions import Definitions
from abtest.experiments import ExperimentStore
from server.admin_ads import IfMatch, Why, known_domain
from server.admin_experiments import Reason
from server.admin_write import DryRun, OffLoop, Writer
from server.errors import Problem
from server.gateway import Gateway
from server.openapi import problems
from server.operators import Operator

Json = dict[str, Any]


class CapBody(Cap, Reason):
    def cap(self) -> Cap:
        return Cap.model_validate(self.model_dump(exclude_unset=True, exclude={"why"}))


def add(routes: APIRouter, gateway: Gateway, store: ExperimentStore, off_loop: OffLoop, write: Writer) -> None:
    errors = problems(404, 412, 422, 428)

    @routes.get("/caps")
    async def read_caps(response: Response) -> Json:
        """Every cap, by domain."""
        found = await off_loop(store.read)
        response.headers["ETag"] = f'"{found.version}"'
        return {"version": found.version, "caps": {name: one.model_dump() for name, one in found.definitions.caps.items()}}

    @routes.put("/caps/{domain}", responses=errors)
    async def write_cap(
        domain: str, body: CapBody, response: Response, who: Operator, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Json:
        """Cap a domain, or change its cap. Outcomes count from when some cap first looks at them; `mdrec caps fill` adds what the
        ledger has of before."""
        known_domain(gateway, domain)

        def amend(now: Definitions) -> Definitions:
            return now.model_copy(update={"caps": {**now.caps, domain: body.cap()}})

        return await write(response, amend, who, body.why, if_match, dry_run)

    @routes.delete("/caps/{domain}", responses=errors)
    async def delete_cap(
        domain: str, response: Response, who: Operator, if_match: IfMatch = None, x_why: Why = "", dry_run: DryRun = False
    ) -> Json:
        """Take a domain's cap away."""

        def amend(now: Definitions) -> Definitions:
            if domain not in now.caps:
                known = sorted(now.caps)
                raise Problem(404, "unknown-cap", f"no cap in {domain!r}; capped: {', '.join(known) or 'none'}", known=known)
            return now.model_copy(update={"caps": {name: one for name, one in now.caps.items() if name != domain}})

        return await write(response, amend, who, x_why, if_match, dry_run)
