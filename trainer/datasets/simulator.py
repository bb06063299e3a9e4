"""The demo world: four (or more) unequal domains over the same people and ads, logged by a policy that half knows what it does.

The click law, its planted features and every impression's true probability go to truth/, which training never reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from contracts.schema import FeatureSpec
from trainer.datasets.click_law import CATEGORIES, DECOYS, NEUTRAL, SENSITIVE, Array, Sizes, World
from trainer.datasets.spec import BidSpec, DatasetSpec, TimestampSpec
from trainer.datasets.writer import writing

START = datetime(2026, 1, 1, tzinfo=UTC)
_CHUNK_ROWS = 50_000  # impressions held at once, whatever the scale
_LOOKED_AT = 6  # ads the logging policy weighs against each other for one impression
_POSITIONS = 8
_WATCHED = 20

SPEC = DatasetSpec(
    name="demo",
    domain="domain",
    user_id="user_id",
    ad_id="ad_id",
    timestamp=TimestampSpec(column="timestamp"),
    label="click",
    bid=BidSpec(column="bid", per="domain"),
    features=(
        FeatureSpec(name="interest", side="user", kind="categorical"),
        FeatureSpec(name="age_band", side="user", kind="categorical"),
        FeatureSpec(name="device_id", side="user", kind="categorical"),
        FeatureSpec(name="tenure_days", side="user", kind="numeric"),
        FeatureSpec(name="recent_topics", side="user", kind="sequence", of="category", max_length=20),
        FeatureSpec(name="watch_seq", side="user", kind="sequence", of="ad_id", max_length=_WATCHED),
        FeatureSpec(name="days_since_visit", side="user_domain", kind="numeric"),
        FeatureSpec(name="category", side="ad", kind="categorical"),
        FeatureSpec(name="advertiser_id", side="ad", kind="categorical"),
        FeatureSpec(name="creative_size", side="ad", kind="categorical"),
        FeatureSpec(name="price", side="ad", kind="numeric"),
        FeatureSpec(name="slot_format", side="ad_domain", kind="categorical"),
        FeatureSpec(name="hour", side="context", kind="categorical"),
        FeatureSpec(name="network", side="context", kind="categorical"),
        FeatureSpec(name="session_id", side="context", kind="categorical"),
    ),
)


def write_demo(to_dir: Path, seed: int = 0, sizes: Sizes | None = None) -> list[str]:
    """Write the world, a day and a chunk at a time; the same seed and sizes give the same bytes."""
    world = World(sizes or Sizes(), seed)
    rows = clicks = 0
    with writing(to_dir, SPEC) as writer:
        for name, events, truth in _chunks(world):
            writer.add(f"events/{name}.parquet", events)
            writer.add(f"truth/events/{name}.parquet", truth)
            rows, clicks = rows + len(events), clicks + int(events["click"].sum())
        writer.add("users.parquet", _users(world))
        writer.add("ads.parquet", _ads(world))
        writer.add("user_domains.parquet", _user_domains(world))
        writer.add("ad_domains.parquet", _ad_domains(world))
        writer.add_json("truth/law.json", _law(world))
    size = world.sizes
    world_size = f"{size.domains} domains, {size.users:,} users, {size.ads:,} ads, {size.days} days"
    return [f"{rows:,} impressions, {clicks:,} clicks, {world_size}"]


def _chunks(world: World) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    sizes = world.sizes
    shelf = [np.flatnonzero(world.eligible_AD[:, d]) for d in range(sizes.domains)]
    odds = [world.popularity_A[ads] / world.popularity_A[ads].sum() for ads in shelf]
    for day, of_day in enumerate(_spread(sizes.impressions, sizes.days)):
        for part, n in enumerate(_spread(of_day, -(-of_day // _CHUNK_ROWS))):
            rng = np.random.default_rng([world.seed, 1, day, part])
            name = f"{START + timedelta(days=day):%Y-%m-%d}-{part:03d}"
            yield name, *_chunk(world, rng, shelf, odds, day, n)


def _chunk(
    world: World, rng: np.random.Generator, shelf: list[Array], odds: list[Array], day: int, n: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    user = rng.choice(world.sizes.users, n, p=world.activity_U)
    domain = (rng.random((n, 1)) > np.cumsum(world.domain_share_UD[user], axis=1)[:, :-1]).sum(axis=1)
    ad = np.empty(n, dtype=np.int64)
    for d in range(world.sizes.domains):
        rows = np.flatnonzero(domain == d)
        looked_at = rng.choice(shelf[d], (len(rows), _LOOKED_AT), p=odds[d])
        liking = world.affinity(user[rows, None], looked_at, np.full((len(rows), 1), d)) + rng.gumbel(size=looked_at.shape)
        ad[rows] = np.take_along_axis(looked_at, liking.argmax(axis=1)[:, None], axis=1)[:, 0]
    busy = np.exp(4 * world.hour_H)
    hour = rng.choice(24, n, p=busy / busy.sum())
    second = np.sort(hour * 3600 + rng.integers(0, 3600, n))
    hour, position = second // 3600, rng.integers(0, _POSITIONS, n)
    p_click = world.click_probability(user, ad, domain, day + second / 86_400, hour, position)
    time_us = (int(START.timestamp()) + day * 86_400 + second) * 1_000_000 + rng.integers(0, 1_000_000, n)
    events = pl.DataFrame(
        {
            "user_id": ids("u", user),
            "ad_id": ids("a", ad),
            "domain": pl.Series(world.sizes.domain_names).gather(domain),
            "timestamp": pl.Series(time_us).cast(pl.Datetime("us", "UTC")),
            "click": (rng.random(n) < p_click).astype(np.int8),
            "position": position.astype(np.int16),
            "hour": pl.Series(hour).cast(pl.String),
            "network": pl.Series(["wifi", "5g", "4g"]).gather(rng.choice(3, n, p=[0.6, 0.25, 0.15])),
            "session_id": ids("s", rng.integers(0, world.sizes.sessions, n)),
        }
    )
    return events, pl.DataFrame({"p_click": p_click})


def _users(world: World) -> pl.DataFrame:
    rng = np.random.default_rng([world.seed, 2])
    users, decoys = world.sizes.users, world.sizes.decoys
    by_category = [np.flatnonzero(world.category_A == c) for c in range(CATEGORIES)]
    watched = []
    for interest, length in zip(world.interest_U, rng.integers(0, _WATCHED + 1, users), strict=True):
        own = by_category[interest] if len(by_category[interest]) else np.arange(world.sizes.ads)
        seen = np.where(rng.random(length) < 0.5, rng.choice(own, length), rng.integers(0, world.sizes.ads, length))
        watched.append([f"a{one}" for one in seen])
    return pl.DataFrame(
        {
            "user_id": ids("u", np.arange(users)),
            "interest": ids("c", world.interest_U),
            "age_band": pl.Series(["<18", "18-24", "25-34", "35-44", "45-54", "55-64", "65+"]).gather(world.age_U),
            "device_id": ids("dev", rng.integers(0, decoys, users) if decoys else rng.permutation(users)),
            "tenure_days": world.tenure_U,
            "recent_topics": [[f"c{one}" for one in topics] for topics in world.topics_U],
            "watch_seq": pl.Series(watched, dtype=pl.List(pl.String)),
        }
    )


def _ads(world: World) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "ad_id": ids("a", np.arange(world.sizes.ads)),
            "category": ids("c", world.category_A),
            "advertiser_id": ids("adv", world.advertiser_A),
            "creative_size": pl.Series(["320x50", "300x250", "728x90", "1080x1080", "1080x1920"]).gather(world.creative_A),
            "price": np.round(world.price_A, 2),
        }
    )


def _user_domains(world: World) -> pl.DataFrame:
    user, domain = np.divmod(np.arange(world.sizes.users * world.sizes.domains), world.sizes.domains)
    return pl.DataFrame(
        {
            "user_id": ids("u", user),
            "domain": pl.Series(world.sizes.domain_names).gather(domain),
            "days_since_visit": np.round(world.days_since_visit_UD[user, domain], 3),
        }
    )


def _ad_domains(world: World) -> pl.DataFrame:
    ad, domain = np.nonzero(world.eligible_AD)
    return pl.DataFrame(
        {
            "ad_id": ids("a", ad),
            "domain": pl.Series(world.sizes.domain_names).gather(domain),
            "bid": world.bid_AD[ad, domain],
            "active": world.active_AD[ad, domain],
            "slot_format": ids("f", world.format_AD[ad, domain]),
        }
    )


def _law(world: World) -> dict[str, object]:
    sizes = world.sizes
    return {
        "seed": world.seed,
        "sizes": asdict(sizes),
        "shares": dict(zip(sizes.domain_names, sizes.shares.tolist(), strict=True)),
        "sensitive": SENSITIVE,
        "decoys": DECOYS,
        "neutral": NEUTRAL,
        "coefficients": world.coefficients(),
    }


def ids(prefix: str, numbers: Array) -> pl.Series:
    """External ids of row numbers: u0, u1, ..."""
    return prefix + pl.Series(numbers).cast(pl.String)


def _spread(total: int, parts: int) -> list[int]:
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]
