"""Bundles change under traffic: no failed request, no answer of two generations, no bad bundle in service."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from contracts.aliases import Aliases
from server.settings import Settings
from tests.server.live import Running, eventually, running
from tests.server.worlds import World


def serves(served: Running, bundle_id: str) -> bool:
    return any(one["bundle_id"] == bundle_id for one in served.ready()["recipes"].values())


def test_swaps_under_load_fail_nothing_and_mix_nothing(home: Path, settings: Settings) -> None:
    """Each generation has its own bias and its own catalogue, so that scores and ads both tell who computed them."""
    worlds = {f"b{n}": World(bundle_id=f"b{n}", bias=0.3 * n, ads=12 + 4 * n) for n in range(4)}
    for world in worlds.values():
        world.build(home, alias=False)
    aliases = Aliases(home)
    aliases.move("adi+dsfm", "b0")
    stop = threading.Event()

    def load(url: str) -> tuple[int, set[str]]:
        count, seen = 0, set()
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                body = {"user_id": "u2", "domain": "video", "k": 50, "context": {"hour": "12"}}
                response = client.post("/v1/recommend", json=body)
                assert response.status_code == 200, response.text
                answer = response.json()
                world = worlds[answer["bundle_id"]]
                assert answer["degraded"] == []
                assert len(answer["ads"]) == world.ads
                for ad in answer["ads"]:
                    expected = world.p_click(2, "video", int(ad["ad_id"][1:]), "12")
                    assert ad["p_click"] == pytest.approx(expected, abs=1e-5), answer["bundle_id"]
                seen.add(answer["bundle_id"])
                count += 1
        return count, seen

    with running(settings) as served, ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(load, served.url) for _ in range(3)]
        try:
            for step in range(1, 13):
                aliases.move("adi+dsfm", f"b{step % 4}")
                eventually(lambda step=step: serves(served, f"b{step % 4}") or any(one.done() for one in clients))
        finally:
            stop.set()
        results = [one.result() for one in clients]
        assert sum(count for count, _ in results) > 20
        assert set().union(*(seen for _, seen in results)) == set(worlds)
        assert served.metric("mdrec_http_request_duration_seconds_count", route="/v1/recommend", status="200") == sum(
            count for count, _ in results
        )
        info = {n: served.metric("mdrec_bundle_info", bundle_id=f"b{n}") for n in range(4)}
        assert info == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}


@pytest.mark.parametrize("name", ["domains/0/index.npy", "golden.npz", "manifest.json", "ranker.onnx"])
def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(home: Path, settings: Settings, name: str) -> None:
    World().build(home)
    damaged = World(bundle_id="b2", bias=1.0).build(home, alias=False) / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with running(settings) as served:
        Aliases(home).move("adi+dsfm", "b2")
        refused = eventually(lambda: served.ready()["refused"])
        assert refused["adi+dsfm"]["bundle_id"] == "b2"
        assert name in refused["adi+dsfm"]["reason"]
        assert served.recommend()["bundle_id"] == "b1"
        assert served.client.get("/readyz").status_code == 200
        assert served.metric("mdrec_bundle_refused_total", recipe="adi+dsfm") == 1
        World(bundle_id="b3").build(home)
        eventually(lambda: serves(served, "b3"))
        assert served.ready()["refused"] == {}


def test_a_recipe_that_never_had_a_good_bundle_makes_the_gateway_unready(home: Path, settings: Settings) -> None:
    World().build(home)
    (World(bundle_id="b2", recipe="adi+other").build(home) / "ranker.onnx").unlink()
    with running(settings) as served:
        answer = served.client.get("/readyz")
        assert answer.status_code == 503
        form = answer.json()["recipes"]["adi+dsfm"]["ranker_form"]
        assert form["form"] == "graph" and "names no architecture" in form["reason"]
        assert answer.json()["problems"] == ["recipe 'adi+other' has no bundle in service"]
        assert served.recommend()["bundle_id"] == "b1"
        shutil.rmtree(home / "bundles" / "b2")
        World(bundle_id="b2", recipe="adi+other").build(home)
        eventually(lambda: served.client.get("/readyz").status_code == 200)


def test_a_champion_without_a_good_bundle_does_not_take_over(home: Path, settings: Settings) -> None:
    World().build(home)
    (World(bundle_id="b2", recipe="adi+other").build(home) / "ranker.onnx").unlink()
    with running(settings) as served:
        Aliases(home).crown("adi+other")
        problems = eventually(lambda: [one for one in served.ready()["problems"] if one.startswith("champion")])
        assert problems == ["champion 'adi+other' is not in service, 'adi+dsfm' answers"]
        assert served.recommend()["bundle_id"] == "b1"
        shutil.rmtree(home / "bundles" / "b2")
        World(bundle_id="b2", recipe="adi+other").build(home)
        eventually(lambda: served.recommend()["bundle_id"] == "b2")


def test_rollback_needs_no_second_load_and_older_bundles_are_let_go(home: Path, settings: Settings) -> None:
    World().build(home)
    with running(settings) as served:
        first = weakref.ref(served.gateway.registry.live.bundles["adi+dsfm"])
        World(bundle_id="b2").build(home)
        eventually(lambda: serves(served, "b2"))
        Aliases(home).rollback("adi+dsfm")
        eventually(lambda: serves(served, "b1"))
        assert served.gateway.registry.live.bundles["adi+dsfm"] is first()
        World(bundle_id="b3").build(home)
        eventually(lambda: serves(served, "b3"))
        World(bundle_id="b4").build(home)
        eventually(lambda: serves(served, "b4"))
        eventually(lambda: gc.collect() >= 0 and first() is None)


def test_a_pinned_bundle_lives_until_its_request_is_done(home: Path, settings: Settings) -> None:
    World().build(home)
    with running(settings) as served:
        pinned = served.gateway.registry.live
        for number in (2, 3):
            World(bundle_id=f"b{number}").build(home)
            eventually(lambda number=number: serves(served, f"b{number}"))
        bundle = pinned.bundles["adi+dsfm"]
        served.gateway.pipeline.rehearse(bundle)
        assert bundle.bundle_id == "b1"


def test_a_recipe_without_alias_leaves_service(home: Path, settings: Settings) -> None:
    World().build(home)
    World(bundle_id="b2", recipe="adi+other").build(home)
    with running(settings) as served:
        assert set(served.ready()["recipes"]) == {"adi+dsfm", "adi+other"}
        next((home / "aliases" / "recipes").glob("adi+other*")).unlink()
        eventually(lambda: set(served.ready()["recipes"]) == {"adi+dsfm"})


def test_a_bundle_made_again_under_its_name_is_loaded_again(home: Path, settings: Settings) -> None:
    directory = World().build(home)
    with running(settings) as served:
        before = served.recommend("nobody")["ads"][0]["p_click"]
        shutil.rmtree(directory)
        World(bias=1.0).build(home)
        eventually(lambda: served.recommend("nobody")["ads"][0]["p_click"] > before + 0.1)
