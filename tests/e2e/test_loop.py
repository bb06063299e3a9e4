"""The closed loop on a running gateway: answers, feedback, the next night learns from it, the new bundle is picked up live."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import redis

from contracts.aliases import Aliases
from contracts.manifest import Manifest
from deploy.redis_local import LocalRedis, running_url
from tests.e2e.command import Gateway, serving
from tests.e2e.conftest import RECIPE, night
from tests.server.live import eventually


def _served(home: Path) -> str:
    alias = Aliases(home).get(RECIPE)
    assert alias is not None
    return alias.bundle_id


def test_what_was_served_today_is_learned_tonight(gateway: Gateway, night_home: Path, checkerboard: Path) -> None:
    before = Manifest.load(Aliases(night_home).bundle_directory(_served(night_home)))
    events = []
    for user in range(20):
        answer = gateway.recommend(f"u{user}", "d1", k=5)
        for ad in answer["ads"]:
            about = {"request_id": answer["request_id"], "user_id": f"u{user}", "domain": "d1", "ad_id": ad["ad_id"]}
            events.append({"event_id": f"seen-{user}-{ad['ad_id']}", "type": "impression", "position": ad["position"], **about})
        events.append({"event_id": f"click-{user}", "type": "click", **about})
    posted = gateway.client.post("/v1/feedback", json={"events": events})
    assert posted.status_code == 202 and posted.json()["accepted"] == len(events), posted.text
    again = gateway.client.post("/v1/feedback", json={"events": events[:7]})
    assert again.json()["duplicates"] == 7

    night(night_home, checkerboard, RECIPE)
    after = Manifest.load(Aliases(night_home).bundle_directory(_served(night_home)))
    assert after.bundle_id != before.bundle_id
    assert after.dataset.rows == before.dataset.rows + 100
    logged = pl.read_parquet(next((night_home / "work").glob("logged-*/events.parquet")))
    assert len(logged) == 100 and logged["label"].sum() == 20 and set(logged["domain"]) == {"d1"}

    eventually(lambda: gateway.recommend("u1", "d0", k=1)["bundle_id"] == after.bundle_id)


def test_answers_survive_redis(popular_home: Path, tmp_path: Path) -> None:
    home = shutil.copytree(popular_home, tmp_path / "home")
    with serving(home) as gateway:
        url = running_url(home)
        assert url is not None
        assert gateway.recommend("u3", "feed", k=5)["degraded"] == []
        with redis.Redis.from_url(url) as client:
            client.shutdown(nosave=True)
        without = gateway.recommend("u3", "feed", k=5)
        assert without["degraded"] == ["features"] and len(without["ads"]) == 5
        about = {"request_id": without["request_id"], "user_id": "u3", "domain": "feed", "ad_id": without["ads"][0]["ad_id"]}
        lost = gateway.client.post("/v1/feedback", json={"events": [{"event_id": "e1", "type": "click", **about}]})
        assert lost.status_code == 503 and lost.headers["retry-after"]

        server = LocalRedis(home / "redis").start()  # at the same socket
        try:
            eventually(lambda: gateway.recommend("u3", "feed", k=5)["degraded"] == [])
        finally:
            server.stop()
