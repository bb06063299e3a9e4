"""An ad added by day: one record of ad_records.py under `added:{domain}`, its raw features as a dataset's files would have them.

Raw, because every bundle encodes them by its own vocabularies: the same record serves tonight's bundle and tomorrow's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from contracts import ad_records
from contracts.ad_records import Records, checked_bid
from contracts.schema import AD_ID, BLOCK_SIDES, Encoded, FeatureSchema, FeatureSpec, ModelField

Scalar = str | bool | int | float | None


@dataclass(frozen=True, slots=True)
class AddedAd:
    """bid: currency units a click; features: raw values by name, those of ads.parquet and of ad_domains.parquet."""

    bid: float
    features: Mapping[str, Scalar]

    def pack(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def unpack(cls, data: bytes) -> AddedAd:
        """Raises ValueError, TypeError or RecursionError for what `pack` did not write."""
        ad = cls(**json.loads(data))
        if not isinstance(ad.features, dict) or not all(isinstance(one, Scalar) for one in ad.features.values()):
            raise ValueError("features are no map of names to plain values")
        return cls(checked_bid(ad.bid), ad.features)


def unpack(fields: Mapping[bytes, bytes]) -> Records[AddedAd]:
    """The reply of HGETALL."""
    return ad_records.unpack(fields, AddedAd.unpack)


def declared(schema: FeatureSchema) -> tuple[FeatureSpec, ...]:
    """The features an ad brings along: all of its block but its id and what is counted from the log."""
    specs = (one for side in BLOCK_SIDES["ad"] for one in schema.of_side(side))
    return tuple(one for one in specs if one.name != AD_ID and one.name not in schema.statistics)


def counted(schema: FeatureSchema) -> dict[ModelField, list[ModelField]]:
    """Declared categories of ads -> the statistics of each, which trainer/statistics.py calls after it: equal for all ads of one
    value in one domain. Those of the ad itself are left out: it has no history."""
    fields = schema.block("ad").fields
    owners = [one for one in fields if any(spec.statistics and spec.name == one.name for spec in schema.features)]
    found: dict[ModelField, list[ModelField]] = {one: [] for one in owners}
    for one in (one for one in fields if one.name in schema.statistics):
        named = [owner for owner in owners if one.name.startswith(f"{owner.name} ")]
        if named:
            found[max(named, key=lambda owner: len(owner.name))].append(one)
    return found


def encode(schema: FeatureSchema, ads: Mapping[str, AddedAd]) -> Encoded:
    """The ad block of n ads: codes (n, Ia), dense (n, Na). All that is counted from the log is missing, as it is of everything
    that the log has not seen. Raises BadInput naming the feature whose value is of the wrong kind."""
    columns: dict[str, Sequence[object]] = {AD_ID: list(ads)}
    for one in declared(schema):
        columns[one.name] = [ad.features.get(one.name) for ad in ads.values()]
    return schema.encode_block("ad", columns, len(ads))
