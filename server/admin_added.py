"""Operators add ads to a domain during the day and take them away: /admin/v1/domains/{domain}/added-ads."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts import added_ads as layout
from contracts.ad_records import MAX_BID, Records, ad_field
from contracts.added_ads import AddedAd
from contracts.errors import BadInput
from contracts.schema import FeatureSchema
from indexer.grown import GrownIndex
from server import api
from server.added_ads import misfit
from server.admin_ads import (
    AdIds,
    IfMatch,
    Record,
    UnreadableRecord,
    Why,
    fields_of,
    known_domain,
    named,
    redis_or_503,
    refresh,
    shown,
    version_named,
)
from server.bundle import Bundle, DomainModel
from server.errors import Problem
from server.gateway import Gateway
from server.openapi import problems
from server.operators import Operator

# Ads of a domain. Each search compares them all; 64 dimensions, k = 500, ms a query without / with 1,000 / 10,000 added: 10k ads
# by exact search .15 / .20 / .37, 100k by IVF .27 / .36 / .56. More are better built into an index, by a night.
MAX_ADDED = 10_000
MAX_AT_ONCE = 1000
_NAMED_ERRORS = 20

Placed = Literal["table", "features", "unseen", "skipped"]
Features = Annotated[dict[str, api.Scalar], Field(description="name -> raw value, as in ads.parquet and ad_domains.parquet")]


class AddAd(BaseModel):
    """features: all that the dataset declares of ads; null where a value is missing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ad_id: api.Id
    bid: float = Field(ge=0, le=MAX_BID, allow_inf_nan=False)
    features: Features


class AddAds(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ads: list[AddAd] = Field(min_length=1, max_length=MAX_AT_ONCE)
    why: str = ""


class AddedAdInfo(BaseModel):
    """bundles: by live recipe, how its bundle serves the ad. table: as one of its own, the addition is moot; features: added, and
    placed by its features; unseen: added, and placed like any ad of which nothing is known, since the retriever reads nothing in
    its features; skipped: a feature's value is not of the kind that this bundle reads."""

    ad_id: str
    bid: float
    features: Features
    bundles: dict[str, Placed]


class AddedAds(BaseModel):
    """version: also the ETag; limit: how many ads may be added."""

    domain: str
    version: int
    limit: int
    ads: list[AddedAdInfo]


class AllAddedAds(AddedAds):
    unreadable: list[UnreadableRecord]


def add(routes: APIRouter, gateway: Gateway, record: Record) -> None:
    """record: puts (who, why, diff) on record."""
    path = "/domains/{domain:path}/added-ads"
    added = gateway.ads.added

    @routes.get(path, response_model=AllAddedAds, responses=problems(422))
    async def added_ads(domain: str, response: Response) -> AllAddedAds:
        """Every ad that was added to the domain, and how each live bundle serves it; and the records that cannot be read."""
        bundles = known_domain(gateway, domain)
        await refresh(gateway)
        async with redis_or_503(gateway):
            found = await added.records.read(domain)
        return _all(gateway, bundles, response, domain, found)

    @routes.post(path, response_model=AddedAds, responses=problems(400, 409, 412, 413, 422))
    async def add_ads(domain: str, body: AddAds, response: Response, who: Operator, if_match: IfMatch = None) -> AddedAds:
        """Add ads with their raw features: all of the body or none of it. They are retrieved, ranked, priced and paused like any
        other. `If-Match` may name the version that was read. Answers the ads named."""
        bundles = known_domain(gateway, domain)
        ads = {one.ad_id: AddedAd(one.bid, one.features) for one in body.ads}
        if len(ads) != len(body.ads):
            raise Problem(422, "bad-input", "an ad is named twice", field="ads")
        await asyncio.to_thread(_check, bundles, domain, ads)

        def change(stored: Mapping[bytes, bytes | None], size: int) -> dict[bytes, str | None]:
            there = [ad_id for ad_id in ads if stored[ad_field(ad_id)] is not None]
            if there:
                raise _conflict(domain, there, "added already", "take it away first, or PATCH its bid")
            if size + len(ads) > MAX_ADDED:
                detail = f"domain {domain!r} has {size} added ads, {len(ads)} more are over the limit of {MAX_ADDED}"
                raise Problem(422, "too-many-ads", f"{detail}; take some away, or let a night build them in", field="ads")
            return {ad_field(ad_id): ad.pack() for ad_id, ad in ads.items()}

        async with redis_or_503(gateway):
            await added.records.write(domain, [ad_field(ad_id) for ad_id in ads], change, version_named(if_match))
        await record(who, body.why, {f"added_ads.{domain}.{ad_id}": [None, asdict(ad)] for ad_id, ad in ads.items()})
        await refresh(gateway)
        async with redis_or_503(gateway):
            found = await added.records.read(domain)
        return _answer(gateway, bundles, response, domain, found, ads)

    @routes.delete(path, response_model=AllAddedAds, responses=problems(404, 412, 422))
    async def take_away(
        domain: str,
        ad_id: AdIds,
        response: Response,
        who: Operator,
        if_match: IfMatch = None,
        x_why: Why = "",
    ) -> AllAddedAds:
        """Take added ads away, also where the record cannot be read, and forget what was changed of them. Ads in a bundle's own
        table stay there. Answers what is left."""
        bundles = known_domain(gateway, domain)
        async with redis_or_503(gateway):
            found = await added.records.read(domain)
            fields = fields_of(found, ad_id, domain)
            await added.records.write(domain, fields, lambda stored, size: dict.fromkeys(stored), version_named(if_match))
            await _forget_changes(gateway, bundles, domain, ad_id)
            left = await added.records.read(domain)
        before = {one: asdict(found.ads[one]) if one in found.ads else "unreadable" for one in ad_id}
        await record(who, x_why, {f"added_ads.{domain}.{one}": [was, None] for one, was in before.items()})
        await refresh(gateway)
        return _all(gateway, bundles, response, domain, left)


def _check(bundles: Mapping[str, Bundle], domain: str, ads: Mapping[str, AddedAd]) -> None:
    """Raises 409 where there is nothing to add, 422 naming every field that is missing, unknown or of the wrong kind."""
    there = [ad_id for ad_id in ads if all(one.domains[domain].ads.ids.find([ad_id])[0] >= 0 for one in bundles.values())]
    if there:
        raise _conflict(domain, there, "in the bundle", "PATCH .../ads to pause or price it")
    errors = [error for bundle in bundles.values() for error in _missing(bundle.schema, ads)]
    errors += _unknown([bundle.schema for bundle in bundles.values()], ads)
    if not errors:
        errors = [error for bundle in bundles.values() for error in _of_wrong_kind(bundle.schema, ads)]
    if errors:
        distinct = list({one["field"]: one for one in errors}.values())
        detail = "; ".join(f"{one['field']}: {one['message']}" for one in distinct[:3])
        raise Problem(422, "bad-input", detail, errors=distinct[:_NAMED_ERRORS])


def _missing(schema: FeatureSchema, ads: Mapping[str, AddedAd]) -> list[dict[str, str]]:
    return [
        _error(at, spec.name, f"is missing; send its {spec.kind} value as the dataset has it, or null where it has none")
        for at, ad in enumerate(ads.values())
        for spec in layout.declared(schema)
        if spec.name not in ad.features
    ]


def _unknown(schemas: Collection[FeatureSchema], ads: Mapping[str, AddedAd]) -> list[dict[str, str]]:
    known = sorted({spec.name for schema in schemas for spec in layout.declared(schema)})
    return [
        _error(at, name, f"value {value!r}: no such feature of ads; leave it out. Known: {', '.join(known) or 'none'}")
        for at, ad in enumerate(ads.values())
        for name, value in ad.features.items()
        if name not in known
    ]


def _of_wrong_kind(schema: FeatureSchema, ads: Mapping[str, AddedAd]) -> list[dict[str, str]]:
    if misfit(schema, ads) is None:
        return []
    errors = []
    for at, ad in enumerate(ads.values()):
        for spec in layout.declared(schema):
            value = ad.features[spec.name]
            try:
                schema.encode(spec.side, {spec.name: [value]}, 1)
            except (BadInput, OverflowError):
                text = f"value {str(value)[:40]!r} is no number; send a number, or null where it has none"
                errors.append(_error(at, spec.name, text))
    return errors


def _error(at: int, feature: str, message: str) -> dict[str, str]:
    return {"field": f"ads.{at}.features.{feature}", "message": message}


def _conflict(domain: str, ad_ids: Collection[str], where: str, remedy: str) -> Problem:
    detail = f"{len(ad_ids)} ads of domain {domain!r} are {where}: {named(ad_ids)}; {remedy}"
    return Problem(409, "ad-exists", detail, field="ads", ad_ids=list(ad_ids))


async def _forget_changes(gateway: Gateway, bundles: Mapping[str, Bundle], domain: str, ad_ids: Collection[str]) -> None:
    """Who adds the ad again finds it neither paused nor at another bid."""
    tables = [bundle.domains[domain].ads.ids for bundle in bundles.values()]
    gone = [ad_id for ad_id in ad_ids if all(table.find([ad_id])[0] < 0 for table in tables)]
    records = gateway.ads.changes.records
    changed = (await records.read(domain)).ads
    fields = [ad_field(ad_id) for ad_id in gone if ad_id in changed]
    if fields:
        await records.write(domain, fields, lambda stored, size: dict.fromkeys(stored), None)


def _answer(
    gateway: Gateway,
    bundles: Mapping[str, Bundle],
    response: Response,
    domain: str,
    found: Records[AddedAd],
    ads: Mapping[str, AddedAd],
) -> AddedAds:
    response.headers["ETag"] = f'"{found.version}"'
    placed = {recipe: _placed(gateway, bundle, bundle.domains[domain], list(ads)) for recipe, bundle in bundles.items()}
    infos = [
        AddedAdInfo(
            ad_id=ad_id, bid=ad.bid, features=dict(ad.features), bundles={recipe: placed[recipe][at] for recipe in bundles}
        )
        for at, (ad_id, ad) in enumerate(ads.items())
    ]
    return AddedAds(domain=domain, version=found.version, limit=MAX_ADDED, ads=infos)


def _all(
    gateway: Gateway, bundles: Mapping[str, Bundle], response: Response, domain: str, found: Records[AddedAd]
) -> AllAddedAds:
    answer = _answer(gateway, bundles, response, domain, found, found.ads)
    return AllAddedAds(**dict(answer), unreadable=shown(found.unreadable))


def _placed(gateway: Gateway, bundle: Bundle, domain: DomainModel, ad_ids: list[str]) -> list[Placed]:
    """How this bundle serves each ad: what stands in its view, and whether the tower tells it from an ad it knows nothing of."""
    view = gateway.ads.added.grown(bundle, domain)
    rows = view.ads.ids.find(ad_ids)
    if not isinstance(view.index, GrownIndex):
        return ["table" if row >= 0 else "skipped" for row in rows]
    nobody = layout.encode(bundle.schema, {"": AddedAd(0.0, {})})
    unseen_E = domain.ad_tower.run({"ad_codes": nobody.codes, "ad_dense": nobody.dense})[0]
    unseen_M = np.isclose(view.index.added_ME, unseen_E, atol=1e-6).all(axis=1)
    own = len(domain.ads)
    kinds: list[Placed] = []
    for row in rows.tolist():
        kinds.append("skipped" if row < 0 else "table" if row < own else "unseen" if unseen_M[row - own] else "features")
    return kinds
