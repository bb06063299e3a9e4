"""Ads added to a running gateway: encoded as a night encodes them, served from then on, over a restart and the next night."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from contracts.added_ads import AddedAd
from contracts.aliases import Aliases
from contracts.schema import AD_ID, FIRST
from deploy.nightly import nightly
from deploy.redis_local import LocalRedis
from server.added_ads import encode_beside
from server.bundle import Bundle
from tests.e2e.command import Gateway, serving
from tests.server.live import eventually
from trainer.datasets import synth

RECIPE = "dnn+shared_dnn"
DOMAIN = "feed"
TOKEN = "open sesame"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
USERS = range(0, 400, 20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its categories have statistics."""
    directory = tmp_path_factory.mktemp("added") / "demo"
    synth("demo", directory, scale=0.05)
    spec = directory / "dataset.yaml"
    plain = "- name: category\n  side: ad\n  kind: categorical\n"
    assert plain in spec.read_text()
    spec.write_text(spec.read_text().replace(plain, f"{plain}  statistics: true\n"))
    return directory


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, demo: Path, redis_server: LocalRedis) -> Path:
    """After one night."""
    home = tmp_path_factory.mktemp("home")
    night(home, demo, redis_server.url)
    return home


def night(home: Path, dataset: Path, redis_url: str) -> None:
    assert not nightly(dataset, [RECIPE], home, redis_url).failed


def raw_features(dataset: Path) -> dict[str, dict[str, Any]]:
    """Of every ad of the domain, as its files have them."""
    ads = pl.read_parquet(dataset / "ads.parquet").join(
        pl.read_parquet(dataset / "ad_domains.parquet").filter(pl.col("domain") == DOMAIN), on="ad_id"
    )
    return {row.pop("ad_id"): row for row in ads.drop("domain", "bid", "active").to_dicts()}


def first_ads(gateway: Gateway) -> set[tuple[str, float]]:
    """Id and bid of the first ad of each of many users."""
    answers = (gateway.recommend(f"u{user}", DOMAIN, k=1) for user in USERS)
    return {(ad["ad_id"], ad["bid"]) for answer in answers for ad in answer["ads"]}


def call(gateway: Gateway, method: str, path: str, **body: Any) -> Any:
    where = f"/admin/v1/domains/{DOMAIN}/{path}"
    answer = gateway.client.request(method, where, json=body or None, headers=AUTH)
    assert answer.status_code == 200, answer.text
    return answer.json()


def serving_bundle(home: Path) -> str:
    alias = Aliases(home).get(RECIPE)
    assert alias is not None
    return alias.bundle_id


def test_an_ad_of_today_is_served_tomorrow(home: Path, demo: Path, redis_server: LocalRedis, tmp_path: Path) -> None:
    settings = {
        "MDREC_REDIS_URL": redis_server.url,
        "MDREC_OPERATOR_TOKEN": TOKEN,
        "MDREC_REDIS_TIMEOUT_MS": "2000",
        "MDREC_RETRIEVE_K": "2000",  # all of the domain, so that the highest bid is always among the candidates
    }
    twin = next(iter(raw_features(demo).values()))
    with serving(home, **settings) as gateway:
        ads = [{"ad_id": one, "bid": 1e6, "features": twin} for one in ("today", "tomorrow")]
        answer = call(gateway, "POST", "added-ads", ads=ads)
        assert [one["bundles"] for one in answer["ads"]] == [{RECIPE: "features"}] * 2
        call(gateway, "PATCH", "ads", changes=[{"ad_id": "tomorrow", "paused": True}, {"ad_id": "today", "bid": 2e6}])
        assert first_ads(gateway) == {("today", 2e6)}

    tables = shutil.copytree(demo, tmp_path / "demo")
    for name, more in (("ads", {}), ("ad_domains", {"domain": DOMAIN, "bid": 3.0, "active": True})):
        frame = pl.read_parquet(tables / f"{name}.parquet")
        row = {key: value for key, value in {"ad_id": "tomorrow", **twin, **more}.items() if key in frame.columns}
        pl.concat([frame, pl.DataFrame([row], frame.schema)]).write_parquet(tables / f"{name}.parquet")
    with serving(home, **settings) as gateway:
        assert first_ads(gateway) == {("today", 2e6)}, "after a restart"
        first = serving_bundle(home)
        night(home, tables, redis_server.url)
        second = serving_bundle(home)
        assert second != first
        eventually(lambda: gateway.recommend("u1", DOMAIN)["bundle_id"] == second, 60)
        assert first_ads(gateway) == {("today", 2e6)}, "the new bundle has never seen it"
        placed = {one["ad_id"]: one["bundles"][RECIPE] for one in call(gateway, "GET", "added-ads")["ads"]}
        assert placed == {"today": "features", "tomorrow": "table"}


def test_an_added_ad_is_encoded_as_the_night_encodes_it(home: Path, demo: Path) -> None:
    """Bit by bit in every column but the statistics of the ad itself, who has no history."""
    first = Aliases(home).bundle_ids()[0]
    bundle, features = Bundle(Aliases(home).bundle_directory(first)), raw_features(demo)
    schema, ads = bundle.schema, bundle.domains[DOMAIN].ads
    rows = np.arange(len(ads))
    encoded = encode_beside(schema, ads.codes, {ad_id: AddedAd(1.0, features[ad_id]) for ad_id in ads.ids})
    fields = schema.block("ad").fields
    without = [one for one in fields if one.name in schema.statistics and not one.name.startswith("category ")]
    compared = [one for one in fields if one not in without]
    assert {AD_ID, "category", "price", "slot_format", "category rate", "category rate in domain"} <= {
        one.name for one in compared
    }
    assert {"ad_id rate", "ad_id rate in domain"} <= {one.name for one in without}
    for one in compared:
        codes = encoded.codes[:, one.columns]
        np.testing.assert_array_equal(codes, ads.codes[rows][:, one.columns], one.name)
        assert (codes >= FIRST).any(), one.name
    assert not any(encoded.codes[:, one.columns].any() for one in without)
    np.testing.assert_array_equal(encoded.dense, ads.dense[rows])
