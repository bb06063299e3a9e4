"""A small log with every kind of feature, on disk as a canonical dataset: 4 days, the last is the test, the third the valid."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from trainer.datasets.canonical import Dataset
from trainer.tables import Tables

USERS, ADS, DAYS, PER_DAY = 40, 60, 4, 800
DOMAINS = ("feed", "search", "story")
START = datetime(2026, 3, 1, tzinfo=UTC)
TEST_FROM = "2026-03-04"
SPEC: dict[str, Any] = {
    "name": "small",
    "domain": "tab",
    "user_id": "uid",
    "ad_id": "item",
    "timestamp": {"column": "ms", "unit": "ms"},
    "label": "click",
    "features": [
        {"name": "age", "side": "user", "kind": "numeric"},
        {"name": "city", "side": "user", "kind": "categorical"},
        {"name": "seen", "side": "user", "kind": "sequence", "of": "ad_id", "max_length": 4},
        {"name": "price", "side": "ad", "kind": "numeric", "encoding": "standardise"},
        {"name": "brand", "side": "ad", "kind": "categorical"},
        {"name": "hour", "side": "context", "kind": "categorical"},
        {"name": "speed", "side": "context", "kind": "numeric"},
        {"name": "visits", "side": "user_domain", "kind": "numeric"},
        {"name": "slot", "side": "ad_domain", "kind": "categorical"},
    ],
}


def frames(seed: int = 0) -> dict[str, pl.DataFrame]:
    """Even users click, odd ones in `search`; every domain has its third of the ads. Rates know the ads alone: a user's clicks
    cancel over the domains."""
    rng = np.random.default_rng(seed)
    n = DAYS * PER_DAY
    user, ad, domain = rng.integers(USERS, size=n), rng.integers(ADS, size=n), rng.choice(3, n, p=[0.5, 0.35, 0.15])
    ms = int(START.timestamp() * 1000) + np.repeat(np.arange(DAYS), PER_DAY) * 86_400_000 + rng.integers(0, 86_400_000, n)
    willing, fitting = (user + (domain == 1)) % 2 == 0, ad % 3 == domain
    click = (rng.random(n) < np.array([[0.02, 0.25], [0.5, 0.98]])[fitting.astype(int), willing.astype(int)]).astype(int)
    events = pl.DataFrame(
        {
            "uid": user,
            "item": [f"ä{one}" for one in ad],
            "tab": [DOMAINS[one] for one in domain],
            "ms": ms,
            "click": click,
            "hour": [None if one == 23 else str(one) for one in rng.integers(0, 24, n)],
            "speed": [float("nan") if one > 0.95 else one for one in rng.random(n)],
        }
    )
    users = pl.DataFrame(
        {
            "uid": np.arange(USERS),
            "age": [None if one % 7 == 0 else 20.0 + one for one in range(USERS)],
            "city": [f"c{one % 5}" for one in range(USERS)],
            "seen": [[f"ä{(one + step) % ADS}" for step in range(one % 7)] for one in range(USERS)],
        }
    )
    ads = pl.DataFrame(
        {
            "item": [f"ä{one}" for one in range(ADS)],
            "price": [float(one) for one in range(ADS)],
            "brand": [f"b{one % 3}" for one in range(ADS)],
        }
    )
    pairs = [(one, name) for one in range(0, USERS, 2) for name in DOMAINS]
    user_domains = pl.DataFrame({"uid": [one for one, _ in pairs], "tab": [d for _, d in pairs], "visits": range(len(pairs))})
    grid = [(f"ä{one}", name) for one in range(ADS) for name in DOMAINS]
    ad_domains = pl.DataFrame(
        {
            "item": [one for one, _ in grid],
            "tab": [d for _, d in grid],
            "slot": [f"s{len(d)}" for _, d in grid],
            "bid": [1.0 + at / 10 for at in range(len(grid))],
            "active": [at % 5 != 4 for at in range(len(grid))],
        }
    )
    return {"events": events, "users": users, "ads": ads, "user_domains": user_domains, "ad_domains": ad_domains}


def write(directory: Path, data: dict[str, pl.DataFrame] | None = None, **spec: Any) -> Dataset:
    """spec: fields of dataset.yaml to change; None takes one out."""
    data = data or frames()
    (directory / "events").mkdir(parents=True)
    body = {name: value for name, value in {**SPEC, **spec}.items() if value is not None}
    (directory / "dataset.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    for name, frame in data.items():
        frame.write_parquet(directory / ("events/log.parquet" if name == "events" else f"{name}.parquet"))
    return Dataset.open(directory)


def build(directory: Path, data: dict[str, pl.DataFrame] | None = None, min_count: int = 2, **spec: Any) -> Tables:
    return Tables.build(write(directory / "data", data, **spec), directory / "tables", TEST_FROM, min_count)


def positives_only(directory: Path) -> Tables:
    """Clicks alone, ids alone, and lists of candidates for the test."""
    data = frames()
    clicks = data["events"].filter(pl.col("click") == 1).select("uid", "item", "tab", "ms")
    last = clicks.filter(pl.col("ms") >= int(START.timestamp() * 1000) + 3 * 86_400_000).unique(
        ["uid", "tab"], maintain_order=True
    )
    dataset = write(directory / "data", {"events": clicks}, features=[], label=None, positives_only=True)
    (directory / "data" / "candidates").mkdir()
    lists = [
        {"user_id": str(one["uid"]), "domain": one["tab"], "ad_ids": [one["item"], *(f"ä{at}" for at in range(4 + row % 3))]}
        for row, one in enumerate(last.iter_rows(named=True))
    ]
    pl.DataFrame(lists).write_parquet(directory / "data" / "candidates" / "test.parquet")
    return Tables.build(dataset, directory / "tables", TEST_FROM)
