"""Open Bandit Dataset (Saito et al., NeurIPS 2021, arXiv 2008.07146): ZOZOTOWN impressions under two logged policies.

domain = campaign and position (men-1, men-2, men-3): the three places of a page differ in how often they are clicked, and item
numbers mean other items in another campaign. A visitor is known by four hashed features only; whoever shares them is one user.
`policy` and `propensity_score` stay in the events for off-policy estimators (`scan_events(["policy", "propensity_score"])`).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from contracts.schema import FeatureSpec
from trainer.datasets.files import find_one, require_columns, scan
from trainer.datasets.spec import DatasetSpec, TimestampSpec
from trainer.datasets.writer import writing

_POLICIES = ("random", "bts")
_USER = [f"user_feature_{number}" for number in range(4)]
_ITEM = [f"item_feature_{number}" for number in range(4)]
_NEEDED = ["timestamp", "item_id", "position", "click", "propensity_score", *_USER]
_AFFINITY = "user-item_affinity_"


def import_open_bandit(from_dir: Path, to_dir: Path) -> list[str]:
    """{random,bts}/{all,men,women}/{campaign}.csv(.gz) with item_context.csv(.gz) beside each. Item features come from the
    random policy's folder where it is there: the two folders hash the same values differently."""
    logs = [(policy, one) for policy in _POLICIES for one in sorted((from_dir / policy).glob("*")) if one.is_dir()]
    if not logs:
        raise BadInput(f"{from_dir} holds no random/ or bts/ folder of campaigns", "expected random/men/men.csv and the like")
    sources = [(policy, folder, find_one(folder, folder.name)) for policy, folder in logs]
    affinities = sorted({name for *_, path in sources for name in scan(path).collect_schema() if name.startswith(_AFFINITY)})
    notes = []
    ads: dict[str, pl.DataFrame] = {}
    users = []
    with writing(to_dir, _spec(len(affinities))) as writer:
        for policy, folder, path in sources:
            frame = scan(path)
            require_columns(path, frame, _NEEDED)
            rows = _events(frame, folder.name, policy, len(affinities)).collect(engine="streaming")
            writer.add(f"events/{policy}-{folder.name}.parquet", rows.drop(_USER).sort("timestamp", maintain_order=True))
            users.append(rows.select("user_id", *_USER).unique())
            if folder.name not in ads:
                ads[folder.name] = _ads(find_one(folder, "item_context"), folder.name)
            notes.append(f"{policy}/{folder.name}: {len(rows):,} impressions, {rows['click'].sum():,} clicks")
        writer.add("users.parquet", pl.concat(users).unique().sort("user_id"))
        writer.add("ads.parquet", pl.concat(ads.values()))
    return notes


def _spec(affinities: int) -> DatasetSpec:
    features = [FeatureSpec(name=one, side="user", kind="categorical") for one in _USER]
    features.append(FeatureSpec(name=_ITEM[0], side="ad", kind="numeric"))
    features += [FeatureSpec(name=one, side="ad", kind="categorical") for one in _ITEM[1:]]
    features.append(FeatureSpec(name="hour", side="context", kind="categorical"))
    features += [FeatureSpec(name=f"affinity_{one}", side="context", kind="numeric") for one in range(affinities)]
    return DatasetSpec(
        name="open-bandit",
        domain="domain",
        user_id="user_id",
        ad_id="ad_id",
        timestamp=TimestampSpec(column="timestamp", timezone="Asia/Tokyo"),
        label="click",
        features=tuple(features),
    )


def _events(frame: pl.LazyFrame, campaign: str, policy: str, affinities: int) -> pl.LazyFrame:
    time = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", time_zone="UTC")
    has = frame.collect_schema()
    names = [f"{_AFFINITY}{number}" for number in range(affinities)]
    return frame.select(
        pl.concat_str(_USER, separator="-").alias("user_id"),
        (pl.lit(f"{campaign}-") + pl.col("item_id")).alias("ad_id"),
        (pl.lit(f"{campaign}-") + pl.col("position")).alias("domain"),
        time,
        pl.col("click").cast(pl.Int8),
        pl.lit(policy).alias("policy"),
        pl.col("propensity_score").cast(pl.Float64),
        time.dt.convert_time_zone("Asia/Tokyo").dt.hour().cast(pl.String).alias("hour"),
        *(
            (pl.col(name).cast(pl.Float32) if name in has else pl.lit(None, dtype=pl.Float32)).alias(f"affinity_{number}")
            for number, name in enumerate(names)
        ),
        *_USER,
    )


def _ads(path: Path, campaign: str) -> pl.DataFrame:
    frame = scan(path)
    require_columns(path, frame, ["item_id", *_ITEM])
    number = pl.col(_ITEM[0]).cast(pl.Float32)
    return frame.select((pl.lit(f"{campaign}-") + pl.col("item_id")).alias("ad_id"), number, *_ITEM[1:]).collect()
