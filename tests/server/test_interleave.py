"""An interleaving arm over real HTTP: two recipes, two bundles, one slate, and whose pick each ad was in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import redis

from abtest.drain import drain
from abtest.experiments import ExperimentStore, parse_object
from abtest.ledger import interleaved
from abtest.preference import preferences
from abtest.team_draft import Pick, coins, draft
from contracts.events import Exposure
from contracts.keys import user_row
from contracts.user_row import UserRow
from server import interleave
from server.bundle import Bundle
from server.pipeline import Question, RowAhead, Stopwatch
from server.settings import Settings
from server.stages import Work
from tests.server.conftest import TOKEN
from tests.server.live import Running, eventually, running, stream
from tests.server.test_degraded import Broken
from tests.server.worlds import World

FIRST = World()
SECOND = World(bundle_id="b2", recipe="adi+other", bias=1.0, bid_step=0.05)  # the dear ads of a class first, not the early ones
RECIPES = (FIRST.recipe, SECOND.recipe)


def arms(*recipes: str, **fields: Any) -> dict[str, Any]:
    rule = {"key": "mix", "variations": [{"recipe": "adi+dsfm"}, {"interleave": list(recipes)}], "weights": [0.0, 1.0]}
    return {"ranker": {"rules": [{**rule, "meta": [{"key": "alone"}, {"key": "mixed"}], "hashVersion": 2, **fields}]}}


def define(served: Running, store: redis.Redis, definitions: dict[str, Any]) -> None:
    version = served.gateway.experiments.version
    ExperimentStore(store).write(parse_object(definitions), who="test", expected_version=version)
    eventually(lambda: served.gateway.experiments.version == version + 1)


@pytest.fixture
def mixed(home: Path, settings: Settings, store: redis.Redis) -> Iterator[Running]:
    for world in (FIRST, SECOND):
        world.build(home)
    with running(settings) as served:
        define(served, store, arms(*RECIPES))
        yield served


def alone(recipe: str, user: int, k: int | None) -> list[str]:
    """What a recipe's own bundle says in search: by rank score, equal ones in retrieval order."""
    world = (FIRST, SECOND)[RECIPES.index(recipe)]
    retrieved = sorted(range(world.ads), key=lambda row: (not world.wants(user, "search", row), row))
    ranked = sorted(retrieved, key=lambda row: -world.p_click(user, "search", row) * world.bid(row))
    return [world.ad_id(row) for row in ranked[:k]]


def drafted(user: int, request: str, k: int) -> list[Pick[str]]:
    return draft((alone(RECIPES[0], user, None), alone(RECIPES[1], user, None)), k, coins("mix", f"u{user}", request))


def test_a_slate_is_the_team_draft_of_both_bundles_own_slates_and_can_be_replayed(mixed: Running, store: redis.Redis) -> None:
    firsts = set()
    for number in range(12):
        user, request = number % 8, f"r{number}"
        answer = mixed.recommend(f"u{user}", "search", k=5, request_id=request)
        picks = drafted(user, request, 5)
        told = answer["interleaved"]
        assert [ad["ad_id"] for ad in answer["ads"]] == [one.ad_id for one in picks]
        assert [ad["position"] for ad in answer["ads"]] == [0, 1, 2, 3, 4]
        assert (told["teams"], told["counts"]) == ([one.team for one in picks], [one.counts for one in picks])
        assert told["weights"] == pytest.approx([one.weight for one in picks])
        assert (told["recipes"], told["bundle_ids"]) == (list(RECIPES), ["b1", "b2"])
        assert (told["experiment"], told["arm"], answer["degraded"]) == ("mix", "mixed", [])
        assert answer["arms"] == [{"experiment": "mix", "arm": "mixed", "recipe": "adi+dsfm & adi+other"}]
        for ad, team in zip(answer["ads"], told["teams"], strict=True):
            world, row = (FIRST, SECOND)[team], int(ad["ad_id"][1:])
            assert ad["p_click"] == pytest.approx(world.p_click(user, "search", row), abs=1e-5)
            assert ad["bid"] == pytest.approx(world.bid(row))
            assert ad["rank_score"] == pytest.approx(ad["p_click"] * ad["bid"], rel=1e-5)
        assert mixed.recommend(f"u{user}", "search", k=5, request_id=request)["ads"] == answer["ads"]
        firsts.add(told["teams"][0])
    assert firsts == {0, 1}
    timings = answer["timings_ms"]
    assert sum(spent for name, spent in timings.items() if name != "total") <= timings["total"] + 0.02


def test_every_position_is_logged_with_its_team_and_reaches_the_credit_log(
    mixed: Running, store: redis.Redis, tmp_path: Path
) -> None:
    answer = mixed.recommend("u1", request_id="r1", k=4)
    mixed.recommend("u2")  # without a request id: one is made, and its coins are that id's
    logged = eventually(lambda: len(found := stream(store, "exposure")) == 2 and found)
    event, other = (Exposure.model_validate(one) for one in logged)
    assert event.interleaved is not None and other.interleaved is not None
    assert event.interleaved.model_dump(mode="json") == answer["interleaved"]
    assert (event.bundle_id, event.recipe) == ("b1", "adi+dsfm")
    assert [ad.ad_id for ad in other.ads] == [one.ad_id for one in drafted(2, other.request_id, 10)]
    drain(store, tmp_path / "events")
    row = interleaved(tmp_path / "events").filter(request_id="r1").collect().row(0, named=True)
    assert (row["experiment"], row["arm"], row["recipes"]) == ("mix", "mixed", list(RECIPES))
    told = (answer["interleaved"][name] for name in ("teams", "counts", "weights"))
    assert [(ad["ad_id"], ad["team"], ad["counts"], ad["weight"]) for ad in row["ads"]] == [
        (ad["ad_id"], *rest) for ad, *rest in zip(answer["ads"], *told, strict=True)
    ]


def test_clicks_told_over_http_become_credit_of_the_recipe_that_picked_the_ad(
    mixed: Running, store: redis.Redis, tmp_path: Path
) -> None:
    """Each user clicks what the second recipe picked, and what counts for nobody."""
    events, credit = [], 0
    for number in range(8):
        answer = mixed.recommend(f"u{number}", request_id=f"r{number}", k=3)
        for ad, team, counts in zip(answer["ads"], *(answer["interleaved"][part] for part in ("teams", "counts")), strict=True):
            if team == 1 or not counts:
                credit += counts
                shown = {"request_id": f"r{number}", "user_id": f"u{number}", "domain": "search", "ad_id": ad["ad_id"]}
                events.append({"event_id": f"e{len(events)}", "type": "click", **shown})
    assert mixed.client.post("/v1/feedback", json={"events": events}).json()["accepted"] == len(events) > credit > 0
    eventually(lambda: len(stream(store, "exposure")) == 8)
    drain(store, tmp_path / "events")
    (found,) = preferences(tmp_path / "events", mixed.gateway.experiments.definitions, "mix")
    assert (found.overall.users, found.overall.clicks, found.alone) == (8, (0, credit), 0)
    assert found.overall.prefer[0] == 0 and found.domains["search"].clicks == (0, credit)


@pytest.mark.parametrize(
    ("broken", "part"), [(RECIPES[0], "ranker"), (RECIPES[1], "index"), (RECIPES[0], "everything"), (RECIPES[1], "everything")]
)
def test_when_one_recipe_fails_the_others_slate_is_served_alone_without_credit(
    mixed: Running, store: redis.Redis, broken: str, part: str
) -> None:
    bundle = mixed.gateway.registry.live.bundles[broken]
    if part == "ranker":
        bundle.ranker = Broken()  # type: ignore[assignment]
    elif part == "index":
        object.__setattr__(bundle.domains["search"], "index", Broken())
    else:
        bundle.schema = Broken()  # type: ignore[assignment]
    answer = mixed.recommend("u1", request_id="r1", k=5)
    (standing,) = {*RECIPES} - {broken}
    served = mixed.gateway.registry.live.bundles[standing]
    assert [ad["ad_id"] for ad in answer["ads"]] == alone(standing, 1, 5)
    assert (answer["bundle_id"], answer["degraded"]) == (served.bundle_id, ["interleave"])
    assert answer["arms"] == [{"experiment": "mix", "arm": "mixed", "recipe": standing}]
    assert "interleaved" not in answer
    assert mixed.metric("mdrec_degraded_total", rung="interleave", domain="search") == 1
    (event,) = eventually(lambda: stream(store, "exposure"))
    assert "interleaved" not in event and event["degraded"] == ["interleave"]


def test_when_both_fail_the_ladders_own_answer_is_given(mixed: Running) -> None:
    for bundle in mixed.gateway.registry.live.bundles.values():
        bundle.ranker = Broken()  # type: ignore[assignment]
    answer = mixed.recommend("u1", k=3)
    assert answer["degraded"] == ["rank", "interleave"]
    assert len(answer["ads"]) == 3 and "interleaved" not in answer
    for bundle in mixed.gateway.registry.live.bundles.values():
        bundle.schema = Broken()  # type: ignore[assignment]
    assert mixed.client.post("/v1/recommend", json={"user_id": "u1", "domain": "search"}).status_code == 500


def test_late_slates_are_left_out(mixed: Running) -> None:
    live = mixed.gateway.registry.live
    begun: list[str] = []
    rows: list[asyncio.Task[bytes | None]] = []

    class Slow:
        """Answers, after which the caller's time is up."""

        def ahead(self, bundle: Bundle, user_id: str, deadline: float) -> RowAhead:
            rows.append(asyncio.create_task(asyncio.Event().wait()))  # type: ignore[arg-type]
            return RowAhead(bundle.bundle_id, rows[0])

        async def recommend(self, bundle: Bundle, question: Question, retrieve_k: int | None) -> interleave.Slate:
            begun.append(bundle.bundle_id)
            question.deadline = perf_counter() - 1
            watch = Stopwatch(mixed.gateway.metrics, "search", bundle.recipe, question.started)
            return Work(bundle, bundle.domains["search"], "u1", {}), watch

    question = Question("u1", "search", 3, {}, deadline=perf_counter() + 3600)

    async def answered() -> list[interleave.Slate]:
        found = await interleave.slates(Slow(), live, live.bundles[RECIPES[0]], question, RECIPES, None)  # type: ignore[arg-type]
        await asyncio.wait(rows, timeout=20)
        assert rows[0].cancelled()  # nobody waits for the row of a recipe that came too late
        return found

    ((work, _),) = asyncio.run(answered())
    assert (work.bundle.bundle_id, begun) == ("b1", ["b1"])


def test_a_time_that_is_up_before_the_first_ranks_gives_its_retrieval_order(mixed: Running) -> None:
    answer = mixed.recommend("u1", k=3, deadline_ms=0.001)
    assert (answer["bundle_id"], answer["degraded"][-2:]) == ("b1", ["deadline", "interleave"])


def test_a_recipe_without_a_bundle_leaves_the_other_one_and_readiness_says_so(mixed: Running, store: redis.Redis) -> None:
    assert mixed.ready()["status"] == "ready"
    define(mixed, store, arms("adi+missing", "adi+other", key="mix2"))
    answer = mixed.recommend("u1")
    assert (answer["bundle_id"], answer["degraded"]) == ("b2", ["recipe", "interleave"])
    assert mixed.ready()["problems"] == ["recipe 'adi+missing', which experiment 'mix2' interleaves, has no bundle in service"]
    define(mixed, store, arms("adi+other", "adi+missing", key="mix3"))
    assert mixed.recommend("u1")["degraded"] == ["interleave"]
    define(mixed, store, arms("adi+lost", "adi+missing", key="mix4"))
    assert (mixed.recommend("u1")["bundle_id"], mixed.recommend("u1")["degraded"]) == ("b1", ["recipe", "interleave"])
    define(mixed, store, arms("adi+lost", "adi+missing", key="mix4", active=False))
    assert mixed.ready()["status"] == "ready"
    assert mixed.recommend("u1")["arms"] == []


def test_operators_can_only_interleave_recipes_with_a_bundle(mixed: Running) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "if-match": '"1"'}
    put = mixed.client.put("/admin/v1/experiments", json={"features": arms("adi+dsfm", "adi+new", key="new")}, headers=headers)
    assert put.status_code == 422, put.text
    assert "'adi+new', a recipe without a bundle" in put.json()["detail"]
    pause = mixed.client.post("/admin/v1/experiments/mix/pause", json={}, headers=headers)
    assert pause.status_code == 200
    assert pause.json()["experiments"][0]["arms"][1]["recipe"] == "adi+dsfm & adi+other"


def test_scores_come_from_the_first_recipe(mixed: Running) -> None:
    scored = mixed.client.post("/v1/score", json={"user_id": "u1", "domain": "search", "ad_ids": ["a2"]}).json()
    assert (scored["bundle_id"], scored["arms"][0]["recipe"]) == ("b1", "adi+dsfm")


def test_an_explained_slate_says_of_every_candidate_of_both_where_it_went(mixed: Running) -> None:
    answer = mixed.recommend("u1", k=3, request_id="why", explain=True)
    record = mixed.client.get("/v1/requests/why").json()
    assert (record["recipe"], len(record["candidates"])) == ("adi+dsfm & adi+other", 24)
    served = {one["position"]: one for one in record["candidates"] if one["position"] is not None}
    for ad, team in zip(answer["ads"], answer["interleaved"]["teams"], strict=True):
        one = served.pop(ad["position"])
        assert (one["ad_id"], one["recipe"], one["p_click"]) == (ad["ad_id"], RECIPES[team], ad["p_click"])
        assert one["left_at"] is None
    assert not served
    left = {(one["recipe"], one["ad_id"]): one["reason"] for one in record["candidates"] if one["left_at"] == "interleave"}
    ads = {name: alone(name, 1, 3) for name in RECIPES}
    picks = {ad["ad_id"]: RECIPES[team] for ad, team in zip(answer["ads"], answer["interleaved"]["teams"], strict=True)}
    assert set(left) == {(name, ad) for name in RECIPES for ad in ads[name] if picks.get(ad) != name}


def test_an_impression_folds_into_both_recipes_rows(home: Path, settings: Settings, store: redis.Redis) -> None:
    """Else the first recipe alone would learn of the user during the day, whoever picked the ad."""
    worlds = [replace(world, with_encoder=True) for world in (FIRST, SECOND)]
    for world in worlds:
        world.build(home)
        store.set(user_row(world.namespace, "u1"), world.user_row(1).pack())
    with running(settings) as served:
        define(served, store, arms(*RECIPES))
        ad = served.recommend("u1", request_id="r1")["ads"][0]["ad_id"]
        eventually(lambda: store.get("req:r1"))
        event = {"event_id": "e", "type": "impression", "request_id": "r1", "user_id": "u1", "domain": "search", "ad_id": ad}
        served.client.post("/v1/feedback", json={"events": [event]})

        def folded() -> bool:
            rows = [UserRow.unpack(store.get(user_row(world.namespace, "u1"))) for world in worlds]
            return all(row.counts.tolist() == [0, 1, 0, 0] for row in rows)

        eventually(folded)
