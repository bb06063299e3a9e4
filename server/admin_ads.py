"""Operators change ads of a domain during the day: /admin/v1/domains/{domain}/ads. In force in every worker at its next look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.ad_changes import AdChange
from server import api
from server.ad_changes import VersionMoved
from server.errors import Problem, overloaded
from server.gateway import Gateway
from server.openapi import problems
from server.redis_door import FAILURES

MAX_CHANGES = 1000
_NAMED = 5  # unknown ads that an error lists

Record = Callable[[str, str, dict[str, list[Any]]], Awaitable[None]]


class ChangeAd(BaseModel):
    """A field that is left out stays as it is; null gives the ad back what the bundle says of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ad_id: api.Id
    paused: bool | None = Field(None, description="true: not shown; false: shown, also if the bundle holds it inactive")
    bid: float | None = Field(None, ge=0, le=1e12, allow_inf_nan=False)


class ChangeAds(BaseModel):
    model_config = ConfigDict(extra="forbid")

    changes: list[ChangeAd] = Field(min_length=1, max_length=MAX_CHANGES)
    why: str = ""


class ChangedAd(BaseModel):
    ad_id: str
    paused: bool | None
    bid: float | None


class ChangedAds(BaseModel):
    """version: also the ETag."""

    domain: str
    version: int
    ads: list[ChangedAd]


def add(routes: APIRouter, gateway: Gateway, record: Record) -> None:
    """record: puts (who, why, diff) on record."""
    path = "/domains/{domain:path}/ads"

    @routes.get(path, response_model=ChangedAds, responses=problems(422))
    async def changed_ads(domain: str, response: Response) -> ChangedAds:
        """Every ad of the domain that operators changed, and how."""
        _known_domain(gateway, domain)
        try:
            found = await gateway.ad_changes.read(domain)
        except FAILURES as error:
            raise _away(gateway, error) from None
        return _answer(response, domain, found.version, dict(found.ads))

    @routes.patch(path, response_model=ChangedAds, responses=problems(400, 412, 413, 422))
    async def change_ads(
        domain: str,
        body: ChangeAds,
        response: Response,
        if_match: Annotated[str | None, Header()] = None,
        x_operator: Annotated[str, Header()] = "operator",
    ) -> ChangedAds:
        """Pause, resume and re-price ads: all of the body or none of it. `If-Match` may name the version that was read.
        Answers the ads named, as they are now."""
        wanted = {one.ad_id: one.model_dump(exclude_unset=True, exclude={"ad_id"}) for one in body.changes}
        _check(gateway, domain, body, wanted)
        try:
            version, changes = await gateway.ad_changes.write(domain, wanted, _version(if_match))
        except FAILURES as error:
            raise _away(gateway, error) from None
        except VersionMoved as error:
            raise Problem(412, "version-conflict", str(error)) from None
        diff = {f"ads.{domain}.{ad_id}": [_plain(before), _plain(after)] for ad_id, (before, after) in changes.items()}
        await record(x_operator, body.why, diff)
        await gateway.ad_changes.refresh(list(gateway.registry.live.bundles.values()))
        return _answer(response, domain, version, {ad_id: after for ad_id, (_, after) in changes.items()})


def _check(gateway: Gateway, domain: str, body: ChangeAds, wanted: dict[str, dict[str, Any]]) -> None:
    """A typing error must not pass for a paused ad."""
    bundles = _known_domain(gateway, domain)
    if len(wanted) != len(body.changes):
        raise Problem(422, "bad-input", "an ad is named twice", field="changes")
    tables = [bundle.domains[domain].ads.ids for bundle in bundles]
    unknown = [ad_id for ad_id in wanted if all(table.find([ad_id])[0] < 0 for table in tables)]
    if unknown:
        detail = f"{len(unknown)} ads are in no live bundle of domain {domain!r}: {', '.join(map(repr, unknown[:_NAMED]))}"
        raise Problem(422, "unknown-ad", detail, field="changes", unknown_ad_ids=unknown)


def _known_domain(gateway: Gateway, domain: str) -> list[Any]:
    """The live bundles that serve it."""
    live = gateway.registry.live
    bundles = [bundle for bundle in live.bundles.values() if domain in bundle.domains]
    if not bundles:
        known = sorted(live.domain_names())
        detail = f"domain {domain!r} is unknown; known: {', '.join(known)}"
        raise Problem(422, "unknown-domain", detail, field="domain", known=known)
    return bundles


def _answer(response: Response, domain: str, version: int, ads: dict[str, AdChange]) -> ChangedAds:
    response.headers["ETag"] = f'"{version}"'
    changed = [ChangedAd(ad_id=ad_id, **asdict(change)) for ad_id, change in ads.items()]
    return ChangedAds(domain=domain, version=version, ads=changed)


def _plain(change: AdChange) -> dict[str, Any] | None:
    return asdict(change) if change else None


def _version(if_match: str | None) -> int | None:
    if if_match is None:
        return None
    try:
        return int(if_match.removeprefix("W/").strip('"'))
    except ValueError:
        raise Problem(422, "bad-input", f"If-Match {if_match} is no version", field="If-Match") from None


def _away(gateway: Gateway, error: Exception) -> Problem:
    return overloaded("redis-gone", f"Redis is unreachable: {error}", gateway.settings.retry_after_seconds)
