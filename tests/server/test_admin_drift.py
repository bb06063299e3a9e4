"""Served probabilities against those of the bundle's first hour: what moved is told, chance and outages are not."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import redis

from contracts.keys import served_scores
from server.api import RecommendAnswer, RecommendedAd
from server.exposures import Shown
from server.metrics import Metrics
from server.psi import GROUPS, MOVED, chance, psi
from server.redis_door import connect
from server.scores import EDGES, FIRST, Scores
from server.settings import Settings
from tests.server.live import Running, running
from tests.server.test_admin import call
from tests.server.test_bad_input import problem
from tests.server.worlds import World

HOUR = 3600.0


def histogram(values: np.ndarray) -> list[int]:
    return np.bincount(np.searchsorted(EDGES, values, side="right"), minlength=len(EDGES) + 1).tolist()


def test_psi_is_its_formula_over_tenths_of_the_reference() -> None:
    assert psi([10] * 10, [10] * 10) == 0
    found = psi([10] * 10, [20] * 5 + [0] * 5)
    held = np.array([20.0] * 5 + [0.5] * 5)
    assert found == pytest.approx(float(((held / held.sum() - 0.1) * np.log(held / held.sum() / 0.1)).sum()))
    assert psi([0, 100, 0], [50, 0, 50]) > 5  # left the range altogether
    assert psi([0, 100, 0], [0, 70, 0]) == pytest.approx(0, abs=0.05)


def test_without_change_psi_is_what_chance_makes() -> None:
    rng = np.random.default_rng(5)
    pairs = [(rng.beta(2, 30, 500), rng.beta(2, 30, 400)) for _ in range(200)]
    found = [psi(histogram(before), histogram(now)) for before, now in pairs]
    expected = np.mean([chance(histogram(before), 500, 400) for before, _ in pairs])
    assert np.mean(found) == pytest.approx(expected, rel=0.3) and max(found) < MOVED
    assert len(EDGES) > 2 * GROUPS


def shown(p_click: list[float | None], bundle_id: str = "b1", domain: str = "feed", **fields: object) -> Shown:
    ads = [RecommendedAd(f"a{at}", at, value, 0.0, 0.0, 1.0) for at, value in enumerate(p_click)]
    degraded = fields.pop("degraded", [])
    answer = RecommendAnswer("r", domain, bundle_id, [], ads, degraded, {})  # type: ignore[arg-type]
    return Shown(answer, 0.0, "u", "adi+dsfm", {}, bool(fields.pop("stranger", False)))


def tell(url: str, when: float, answers: list[Shown], began: float | None = None) -> None:
    """As a worker whose clock says so. began: ... and another before it."""

    async def work() -> None:
        client = connect(url, 5000)
        for moment, told in ((began, answers[:1]), (when, answers)):
            if moment is not None:
                scores = Scores(client, Metrics(), HOUR, lambda: moment)  # noqa: B023
                for one in told:
                    scores.add(one)
                await scores.flush()
        await client.aclose()

    asyncio.run(work())


def served_like(rng: np.random.Generator, tilt: float, answers: int = 500) -> list[Shown]:
    """p_click from .02 to .2, the lower ones the more frequent the higher the tilt: the PSI of two is about (t - 1)^2 / t."""
    return [shown((0.02 + 0.18 * rng.random(5) ** tilt).tolist(), stranger=at % 10 == 0) for at in range(answers)]


def drift(served: Running, domain: str = "feed", query: str = "") -> dict:  # type: ignore[type-arg]
    found = call(served, "GET", f"drift{query}")
    assert found.status_code == 200, found.text
    return next(one for one in found.json()["slices"] if one["domain"] == domain)


def test_workers_add_up_and_the_first_hour_ends_for_all_of_them(redis_url: str, store: redis.Redis) -> None:
    start = 1_000 * HOUR
    for at in (0.0, HOUR - 1, HOUR, 1.5 * HOUR):
        tell(redis_url, start + at, [shown([0.02, 0.5])])
    first, later = (store.hgetall(served_scores("b1", "feed", part)) for part in (FIRST, "1001"))
    assert (first[b"answers"], later[b"answers"], float(first[b"since"])) == (b"2", b"2", start)
    assert sum(int(value) for key, value in first.items() if key.isdigit()) == 4
    assert 0 < store.ttl(served_scores("b1", "feed", "1001")) <= 25 * HOUR
    assert store.ttl(served_scores("b1", "feed", FIRST)) > 80 * 86_400


def test_answers_from_a_lower_rung_or_without_a_ranker_are_left_out(redis_url: str, store: redis.Redis) -> None:
    tell(redis_url, HOUR, [shown([0.1], degraded=["features"]), shown([None]), shown([]), shown([0.1])])
    assert store.hget(served_scores("b1", "feed", FIRST), "answers") == b"1"


def test_what_redis_did_not_take_is_kept(redis_url: str, store: redis.Redis) -> None:
    async def work() -> None:
        away, client = connect("redis://127.0.0.1:1/0", 500), connect(redis_url, 5000)
        scores = Scores(away, Metrics(), HOUR)
        scores.add(shown([0.1]))
        with pytest.raises(redis.RedisError):
            await scores.flush()
        scores.add(shown([0.1]))
        scores._client = client
        await scores.flush()
        await client.aclose()
        await away.aclose()

    asyncio.run(work())
    assert store.hget(served_scores("b1", "feed", FIRST), "answers") == b"2"


@pytest.mark.parametrize(("tilt", "verdict"), [(1.0, "stable"), (1.5, "moved"), (2.0, "drifted")])
def test_later_hours_are_judged_by_the_first(served: Running, redis_url: str, tilt: float, verdict: str) -> None:
    rng, now = np.random.default_rng(3), time.time()
    tell(redis_url, now - 1.9 * HOUR, served_like(rng, 1.0, 800), began=now - 2 * HOUR)
    tell(redis_url, now, served_like(rng, tilt))
    found = drift(served)
    assert (found["verdict"], found["bundle_id"], found["recipe"]) == (verdict, "b1", "adi+dsfm"), found["psi"]
    assert f"PSI {found['psi']:.3f}" in found["words"]
    assert (found["reference"]["answers"], found["recent"]["answers"], found["recent"]["ads"]) == (801, 500, 2500)
    assert found["recent"]["mean_p_click"] == pytest.approx(0.02 + 0.18 / (tilt + 1), rel=0.05)
    assert sum(found["recent"]["shares"]) == pytest.approx(1) and len(found["recent"]["shares"]) == len(EDGES) + 1
    assert found["unseen_share"] == 0.1 and "without a row" not in found["words"]


def test_what_the_gateway_serves_is_counted_at_once_and_gathers_first(served: Running) -> None:
    before = drift(served, "search")
    assert (before["verdict"], before["reference"]["since"]) == ("gathering", None)
    served.recommend("u1", "search", k=3)
    served.recommend("nobody", "search", k=3)
    for _ in range(200):  # until the exposures are in the stream
        after = drift(served, "search")
        if after["reference"]["answers"] == 2:
            break
        served.ready()
    assert (after["verdict"], after["reference"]["ads"], after["unseen_share_reference"]) == ("gathering", 6, 1.0)
    assert "2 answers so far" in after["words"] and after["psi"] is None


def test_few_answers_tell_nothing_and_wrong_counts_are_named(served: Running, redis_url: str, store: redis.Redis) -> None:
    rng, now = np.random.default_rng(3), time.time()
    tell(redis_url, now - 1.9 * HOUR, served_like(rng, 1.0), began=now - 2 * HOUR)
    tell(redis_url, now, served_like(rng, 2.0, 20))
    assert drift(served)["verdict"] == "too few"
    answer = call(served, "GET", "drift")
    assert call(served, "GET", "drift", **{"If-None-Match": answer.headers["etag"]}).status_code == 304
    problem(call(served, "GET", "drift?hours=25"), 422)
    store.hset(served_scores("b1", "feed", FIRST), "answers", "many")
    assert "drift:b1:feed" in problem(call(served, "GET", "drift"), 500)["detail"]


def test_without_redis_or_a_ranker_it_says_so(home: object, settings: Settings) -> None:
    World(with_ranker=False).build(home)  # type: ignore[arg-type]
    with running(settings) as served:
        assert "no ranker" in drift(served)["words"]
    with running(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as served:
        assert problem(call(served, "GET", "drift"), 503)["type"] == "urn:mdrec:problem:redis-gone"
