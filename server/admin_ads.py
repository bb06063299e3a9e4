"""Operators change ads of a domain during the day: /admin/v1/domains/{domain}/ads. In force in every worker at its next look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.ad_changes import AdChange
from contracts.ad_records import MAX_BID, Records, Unreadable, ad_field
from server import api
from server.ad_records import VersionMoved
from server.bundle import Bundle
from server.errors import Problem, overloaded
from server.gateway import Gateway
from server.header_text import HeaderText
from server.openapi import problems
from server.operators import Operator
from server.redis_door import FAILURES

MAX_CHANGES = 1000
_NAMED = 5  # ads that an error lists

Record = Callable[[str, str, dict[str, list[Any]]], Awaitable[None]]
IfMatch = Annotated[str | None, Header()]
Why = Annotated[HeaderText, Header(description="goes into the audit record; RFC 8187 where it is not Latin-1")]
AdIds = Annotated[list[str], Query(min_length=1, max_length=MAX_CHANGES)]


class ChangeAd(BaseModel):
    """A field that is left out stays as it is; null gives the ad back what the bundle says of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ad_id: api.Id
    paused: bool | None = Field(None, description="true: not shown; false: shown, also if the bundle holds it inactive")
    bid: float | None = Field(None, ge=0, le=MAX_BID, allow_inf_nan=False)


class ChangeAds(BaseModel):
    model_config = ConfigDict(extra="forbid")

    changes: list[ChangeAd] = Field(min_length=1, max_length=MAX_CHANGES)
    why: str = ""


class ChangedAd(BaseModel):
    ad_id: str
    paused: bool | None
    bid: float | None


class UnreadableRecord(BaseModel):
    """A record that no gateway can read, and all skip. key: its field in the Redis hash; bytes that are no UTF-8 are escaped."""

    key: str
    ad_id: str
    why: str


class ChangedAds(BaseModel):
    """version: also the ETag; -1 where the stored one is no number."""

    domain: str
    version: int
    ads: list[ChangedAd]


class AllChangedAds(ChangedAds):
    unreadable: list[UnreadableRecord]


def add(routes: APIRouter, gateway: Gateway, record: Record) -> None:
    """record: puts (who, why, diff) on record."""
    path = "/domains/{domain:path}/ads"
    changes = gateway.ads.changes

    @routes.get(path, response_model=AllChangedAds, responses=problems(422))
    async def changed_ads(domain: str, response: Response) -> AllChangedAds:
        """Every ad of the domain that operators changed, and how; and the records that cannot be read."""
        known_domain(gateway, domain)
        async with redis_or_503(gateway):
            found = await changes.records.read(domain)
        return _all(response, domain, found)

    @routes.patch(path, response_model=ChangedAds, responses=problems(400, 412, 413, 422))
    async def change_ads(domain: str, body: ChangeAds, response: Response, who: Operator, if_match: IfMatch = None) -> ChangedAds:
        """Pause, resume and re-price ads: all of the body or none of it. `If-Match` may name the version that was read.
        Answers the ads named, as they are now."""
        wanted = {one.ad_id: one.model_dump(exclude_unset=True, exclude={"ad_id"}) for one in body.changes}
        if len(wanted) != len(body.changes):
            raise Problem(422, "bad-input", "an ad is named twice", field="changes")
        async with redis_or_503(gateway):
            await _check(gateway, domain, wanted)
            version, done = await changes.write(domain, wanted, version_named(if_match))
        diff = {f"ads.{domain}.{ad_id}": [_plain(before), _plain(after)] for ad_id, (before, after) in done.items()}
        await record(who, body.why, diff)
        await refresh(gateway)
        return _answer(response, domain, version, {ad_id: after for ad_id, (_, after) in done.items()})

    @routes.delete(path, response_model=AllChangedAds, responses=problems(404, 412, 422))
    async def forget_changes(
        domain: str,
        ad_id: AdIds,
        response: Response,
        who: Operator,
        if_match: IfMatch = None,
        x_why: Why = "",
    ) -> AllChangedAds:
        """Give ads back what the bundle says of them, also where the record cannot be read. Answers what is left."""
        known_domain(gateway, domain)
        async with redis_or_503(gateway):
            found = await changes.records.read(domain)
            fields = fields_of(found, ad_id, domain)
            await changes.records.write(domain, fields, lambda stored, size: dict.fromkeys(stored), version_named(if_match))
            left = await changes.records.read(domain)
        await record(who, x_why, {f"ads.{domain}.{one}": [_plain(found.ads.get(one)), None] for one in ad_id})
        await refresh(gateway)
        return _all(response, domain, left)


def known_domain(gateway: Gateway, domain: str) -> dict[str, Bundle]:
    """The live bundles that serve it, by recipe. Raises 422 naming the known domains."""
    live = gateway.registry.live
    bundles = {recipe: bundle for recipe, bundle in live.bundles.items() if domain in bundle.domains}
    if not bundles:
        known = sorted(live.domain_names())
        detail = f"domain {domain!r} is unknown; known: {', '.join(known)}"
        raise Problem(422, "unknown-domain", detail, field="domain", known=known)
    return bundles


def version_named(if_match: str | None) -> int | None:
    if if_match is None:
        return None
    try:
        return int(if_match.removeprefix("W/").strip('"'))
    except ValueError:
        raise Problem(422, "bad-input", f"If-Match {if_match} is no version", field="If-Match") from None


@asynccontextmanager
async def redis_or_503(gateway: Gateway) -> AsyncIterator[None]:
    """A Redis that is away is 503, somebody else's change in between 412."""
    try:
        yield
    except VersionMoved as error:
        raise Problem(412, "version-conflict", str(error)) from None
    except FAILURES as error:
        raise overloaded("redis-gone", f"Redis is unreachable: {error}", gateway.settings.retry_after_seconds) from None


async def refresh(gateway: Gateway) -> None:
    """This worker looks at once, the others within their pause."""
    await gateway.ads.refresh(gateway.bundles())


def fields_of(found: Records[Any], ad_ids: Collection[str], domain: str) -> list[bytes]:
    """Where the records of these ads stand, readable or not. Raises 404 naming those that have none."""
    broken = {one.ad_id: one.field for one in found.unreadable}
    missing = [ad_id for ad_id in ad_ids if ad_id not in found.ads and ad_id not in broken]
    if missing:
        raise Problem(404, "no-record", f"domain {domain!r} has no record of {named(missing)}", unknown_ad_ids=missing)
    return [ad_field(ad_id) if ad_id in found.ads else broken[ad_id] for ad_id in dict.fromkeys(ad_ids)]


def named(ad_ids: Collection[str]) -> str:
    """A few of many."""
    few = ", ".join(map(repr, list(ad_ids)[:_NAMED]))
    return few if len(ad_ids) <= _NAMED else f"{few} and {len(ad_ids) - _NAMED} more"


def shown(unreadable: Collection[Unreadable]) -> list[UnreadableRecord]:
    return [UnreadableRecord(key=one.key, ad_id=one.ad_id, why=one.why) for one in unreadable]


async def _check(gateway: Gateway, domain: str, wanted: Collection[str]) -> None:
    """A typing error must not pass for a paused ad."""
    tables = [bundle.domains[domain].ads.ids for bundle in known_domain(gateway, domain).values()]
    unknown = [ad_id for ad_id in wanted if all(table.find([ad_id])[0] < 0 for table in tables)]
    if unknown:  # another worker may have added them a moment ago
        added = (await gateway.ads.added.records.read(domain)).ads
        unknown = [ad_id for ad_id in unknown if ad_id not in added]
    if unknown:
        detail = f"{len(unknown)} ads are in no live bundle of domain {domain!r}, nor added to it: {named(unknown)}"
        raise Problem(422, "unknown-ad", detail, field="changes", unknown_ad_ids=unknown)


def _answer(response: Response, domain: str, version: int, ads: Mapping[str, AdChange]) -> ChangedAds:
    response.headers["ETag"] = f'"{version}"'
    changed = [ChangedAd(ad_id=ad_id, **asdict(change)) for ad_id, change in ads.items()]
    return ChangedAds(domain=domain, version=version, ads=changed)


def _all(response: Response, domain: str, found: Records[AdChange]) -> AllChangedAds:
    answer = _answer(response, domain, found.version, found.ads)
    return AllChangedAds(**dict(answer), unreadable=shown(found.unreadable))


def _plain(change: AdChange | None) -> Any:
    if change is None:
        return "unreadable"
    return asdict(change) if change else None
