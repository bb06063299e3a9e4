"""Ads added to a running gateway: encoded as a night encodes them, served by every worker, over a restart and the next night."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from contracts import added_ads
from contracts.added_ads import AddedAd
from contracts.aliases import Aliases
from contracts.schema import AD_ID, FIRST
from deploy.redis_local import LocalRedis
from server.bundle import Bundle
from tests.e2e.command import Gateway, mdrec, serving
from tests.server.live import eventually

RECIPE = "dnn+shared_dnn"
DOMAIN = "feed"
TOKEN = "open sesame"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
USERS = range(0, 400, 20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("added") / "demo"
    made = mdrec(directory.parent, "data", "synth", "--to", directory, "--scale", "0.05")
    assert made.returncode == 0, made.stderr
    return directory


def night(home: Path, dataset: Path, redis_url: str) -> str:
    """The bundle it publishes."""
    done = mdrec(home, "nightly", "--data", dataset, "--recipe", RECIPE, MDREC_REDIS_URL=redis_url)
    assert done.returncode == 0, done.stdout + done.stderr
    alias = Aliases(home).get(RECIPE)
    assert alias is not None
    return alias.bundle_id


def raw_features(dataset: Path) -> dict[str, dict[str, Any]]:
    """Of every ad of the domain, as its files have them."""
    ads = pl.read_parquet(dataset / "ads.parquet").join(
        pl.read_parquet(dataset / "ad_domains.parquet").filter(pl.col("domain") == DOMAIN), on="ad_id"
    )
    return {row.pop("ad_id"): row for row in ads.drop("domain", "bid", "active").to_dicts()}


def first_ads(gateway: Gateway) -> set[tuple[str, float]]:
    """Id and bid of the first ad of each of many users; a connection each, so that every worker is asked."""
    found = set()
    for user in USERS:
        asked = {"user_id": f"u{user}", "domain": DOMAIN, "k": 1}
        (ad,) = httpx.post(f"{gateway.url}/v1/recommend", json=asked, timeout=30).json()["ads"]
        found.add((ad["ad_id"], ad["bid"]))
    return found


def call(gateway: Gateway, method: str, path: str, **body: Any) -> Any:
    where = f"/admin/v1/domains/{DOMAIN}/{path}"
    answer = gateway.client.request(method, where, json=body or None, headers=AUTH)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_ad_of_today(demo: Path, tmp_path: Path) -> None:
    home, server = tmp_path / "home", LocalRedis(tmp_path / "redis").start()
    settings = {"MDREC_REDIS_URL": server.url, "MDREC_OPERATOR_TOKEN": TOKEN, "MDREC_REDIS_TIMEOUT_MS": "2000"}
    try:
        first = night(home, demo, server.url)
        features = raw_features(demo)
        encodes_as_the_night_did(Bundle(home / "bundles" / first), features)
        twin = next(iter(features.values()))

        with serving(home, "serve", "--workers", "2", **settings) as gateway:
            ads = [{"ad_id": one, "bid": 1e6, "features": twin} for one in ("today", "tomorrow")]
            answer = call(gateway, "POST", "added-ads", ads=ads)
            assert [one["bundles"] for one in answer["ads"]] == [{RECIPE: "features"}] * 2
            call(gateway, "PATCH", "ads", changes=[{"ad_id": "tomorrow", "paused": True}, {"ad_id": "today", "bid": 2e6}])
            eventually(lambda: first_ads(gateway) == {("today", 2e6)})

        with serving(home, "serve", "--workers", "2", **settings) as gateway:
            assert first_ads(gateway) == {("today", 2e6)}, "after a restart"
            tables = shutil.copytree(demo, tmp_path / "demo")
            for name, more in (("ads", {}), ("ad_domains", {"domain": DOMAIN, "bid": 3.0, "active": True})):
                frame = pl.read_parquet(tables / f"{name}.parquet")
                row = {key: value for key, value in {"ad_id": "tomorrow", **twin, **more}.items() if key in frame.columns}
                pl.concat([frame, pl.DataFrame([row], frame.schema)]).write_parquet(tables / f"{name}.parquet")
            second = night(home, tables, server.url)
            assert second != first
            eventually(lambda: all(gateway.recommend("u1", DOMAIN)["bundle_id"] == second for _ in range(20)))
            assert first_ads(gateway) == {("today", 2e6)}, "the new bundle's logs have never seen it"
            placed = {one["ad_id"]: one["bundles"][RECIPE] for one in call(gateway, "GET", "added-ads")["ads"]}
            assert placed == {"today": "features", "tomorrow": "table"}
    finally:
        server.stop()


def encodes_as_the_night_did(bundle: Bundle, features: dict[str, dict[str, Any]]) -> None:
    """Bit by bit in every column but the statistics, which an ad without history lacks."""
    schema, ads = bundle.schema, bundle.domains[DOMAIN].ads
    encoded = added_ads.encode(schema, {ad_id: AddedAd(1.0, features[ad_id]) for ad_id in ads.ids})
    rows = np.arange(len(ads))
    fields = schema.block("ad").fields
    compared = [one for one in fields if one.name not in schema.statistics]
    assert {AD_ID, "category", "price", "slot_format"} <= {one.name for one in compared} < {one.name for one in fields}
    for one in fields:
        codes = encoded.codes[:, one.columns]
        if one in compared:
            np.testing.assert_array_equal(codes, ads.codes[rows][:, one.columns], one.name)
            assert (codes >= FIRST).any()
        else:
            assert not codes.any()
    np.testing.assert_array_equal(encoded.dense, ads.dense[rows])
