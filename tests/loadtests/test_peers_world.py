"""The made-up world is a real bundle: the gateway serves it, and services written without mdrec give the same answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contracts.aliases import Aliases
from contracts.errors import BadInput
from contracts.manifest import Manifest
from deploy.redis_local import LocalRedis
from loadtests.answers import recommend_problem
from loadtests.kernels import live_bundle
from loadtests.peers import engine, world
from loadtests.peers.servers import fastapi_ort, naive
from loadtests.peers.world_traffic import world_traffic
from server.settings import Settings
from tests.server.live import Running, running

ADS, DOMAINS, USERS = 2_000, 2, 50
PEERS = {"naive": naive.create_app, "fastapi_ort": fastapi_ort.create_app}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home: Path = tmp_path_factory.mktemp("world")
    world.build(home, ADS, DOMAINS, USERS, say=lambda line: None)
    return home


@pytest.fixture(scope="module")
def store(home: Path) -> Iterator[str]:
    server = LocalRedis(home / "redis").start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def gateway(home: Path, store: str) -> Iterator[Running]:
    live_bundle(home)  # compiles what ranks, which may take longer than a gateway is waited for
    with running(Settings(home=home, redis_url=store, redis_timeout_ms=2000)) as one:
        yield one


@pytest.fixture
def ask_peer(home: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[httpx.Response]]:
    monkeypatch.setenv(engine.HOME, str(home))
    monkeypatch.setenv(engine.REDIS_URL, store)

    async def ask(name: str, asked: list[dict[str, Any]]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(PEERS[name]())
        async with httpx.AsyncClient(transport=transport, base_url="http://peer") as client:
            return [await client.post("/v1/recommend", json=body) for body in asked]

    return lambda name, asked: asyncio.run(ask(name, asked))


def bodies(home: Path, count: int) -> list[dict[str, Any]]:
    facts = json.loads((home / world.FACTS).read_text())
    traffic = world_traffic(facts, seed=3)
    return [traffic.recommend() for _ in range(count)]


def test_the_gateway_serves_it_to_users_and_from_domains_that_differ(gateway: Running) -> None:
    users, domains = ("0", "7", "stranger"), ("d0", "d1")
    answers = {(user, one): gateway.recommend(user, one, context={"c0": "3"}) for user in users for one in domains}
    for answer in answers.values():
        assert recommend_problem(200, answer, 10) is None and len(answer["ads"]) == 10
        assert answer["degraded"] == []
    assert len({tuple(ad["ad_id"] for ad in answers[user, "d0"]["ads"]) for user in users}) == len(users)
    for user in users:  # domains share towers and ads, and the ranker knows them apart
        assert len({answers[user, one]["ads"][0]["p_click"] for one in domains}) == len(domains)


def test_it_is_of_the_shape_that_is_measured(home: Path) -> None:
    manifest = Manifest.load(Aliases(home).bundle_directory(f"bench.{ADS}x{DOMAINS}.s0"))
    assert [(one.name, one.ads) for one in manifest.domains] == [("d0", ADS), ("d1", ADS)]
    assert manifest.retriever.dimension == 64
    ranker = manifest.ranker
    assert ranker is not None and len(ranker.sensitive_features) == 5
    facts = json.loads((home / world.FACTS).read_text())
    assert facts["k"] == 500


def test_every_user_has_a_row_in_redis(home: Path, store: str) -> None:
    with redis.Redis.from_url(store) as client:
        keys = set(client.scan_iter(f"udf:bench.{ADS}x{DOMAINS}.s0:*"))
    assert len(keys) == USERS + 1  # and the namespace's own


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_the_answers_of_mdrec(
    name: str, home: Path, gateway: Running, ask_peer: Callable[..., list[httpx.Response]]
) -> None:
    strange = {"user_id": "nobody", "domain": "d1", "k": 5, "context": {"c1": "99", "c2": "unheard of"}}
    asked = [*bodies(home, 12), strange]
    for body, answer in zip(asked, ask_peer(name, asked), strict=True):
        ours, theirs = gateway.client.post("/v1/recommend", json=body).json(), answer.json()
        assert recommend_problem(answer.status_code, theirs, body["k"]) is None
        assert theirs.keys() == ours.keys()
        for our, their in zip(ours["ads"], theirs["ads"], strict=True):
            assert (their.pop("ad_id"), their.pop("position")) == (our.pop("ad_id"), our.pop("position"))
            assert their == pytest.approx(our, rel=1e-4, abs=1e-5)


def test_equal_arguments_give_an_equal_bundle_and_others_are_refused(home: Path, tmp_path: Path) -> None:
    assert world.build(home, ADS, DOMAINS, USERS)["asked"]["ads"] == ADS  # at once
    with pytest.raises(BadInput, match="holds the world"):
        world.build(home, ADS + 1, DOMAINS, USERS)
    digests = set()
    for name in ("first", "second"):
        facts = world.build(tmp_path / name, ads=300, users=20, say=lambda line: None)
        digests.add(Manifest.load(tmp_path / name / facts["bundle"]).content_digest)
    assert len(digests) == 1
