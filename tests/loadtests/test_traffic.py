"""The traffic is the dataset's own: users by activity, domains by each user's mix, contexts with their events."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from fake_gateway import CONTEXTS, recommend_answer, write_dataset

from loadtests.traffic import SCORED_ADS, STRANGERS, Traffic, dataset_directory
from server.api import FeedbackEvent, RecommendRequest, ScoreRequest

DRAWS = 20_000


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic.read(write_dataset(tmp_path), seed=1)


def test_users_come_by_activity_and_domains_by_each_users_mix(traffic: Traffic) -> None:
    drawn = [traffic.recommend() for _ in range(DRAWS)]
    strangers = [one for one in drawn if one["user_id"] not in ("1", "2")]
    assert len(strangers) / DRAWS == pytest.approx(STRANGERS, rel=0.15)
    assert len({one["user_id"] for one in strangers}) == len(strangers)
    known = Counter((one["user_id"], one["domain"]) for one in drawn if one["user_id"] in ("1", "2"))
    shares = {pair: count / known.total() for pair, count in known.items()}
    expected = {("1", "feed"): 0.60, ("1", "search"): 0.15, ("2", "search"): 0.25}
    assert shares == pytest.approx(expected, abs=0.012)  # four standard errors


def test_contexts_travel_with_their_events_and_leave_out_what_is_missing(traffic: Traffic) -> None:
    for _ in range(500):
        one = traffic.recommend()
        if one["user_id"] in ("1", "2"):
            assert one["context"] == CONTEXTS[one["user_id"], one["domain"]]


def test_a_seed_draws_the_same_traffic(tmp_path: Path) -> None:
    directory = write_dataset(tmp_path)
    first, second, other = (Traffic.read(directory, seed=seed) for seed in (5, 5, 6))
    drawn = [[one.recommend() for _ in range(50)] for one in (first, second, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_scores_are_asked_for_ads_of_the_domain(traffic: Traffic) -> None:
    seen = {"feed": {"100"}, "search": {"101", "102"}}
    for _ in range(100):
        body = traffic.score()
        assert 0 < len(body["ad_ids"]) <= SCORED_ADS and len(set(body["ad_ids"])) == len(body["ad_ids"])
        assert set(body["ad_ids"]) <= seen[body["domain"]]


def test_feedback_clicks_by_p_click_and_names_its_request(traffic: Traffic) -> None:
    answer = recommend_answer(k=4)
    for ad, p_click in zip(answer["ads"], (1.0, 0.0, 0.25, None), strict=True):
        ad["p_click"] = p_click
    clicks: Counter[str] = Counter()
    ids = set()
    for _ in range(2000):
        events = traffic.feedback("u", answer)["events"]
        assert [one["ad_id"] for one in events if one["type"] == "impression"] == ["a0", "a1", "a2", "a3"]
        assert {(one["request_id"], one["user_id"], one["domain"]) for one in events} == {("r1", "u", "feed")}
        clicks.update(one["ad_id"] for one in events if one["type"] == "click")
        ids.update(one["event_id"] for one in events)
    assert clicks["a0"] == 2000 and clicks["a1"] == clicks["a3"] == 0
    assert clicks["a2"] / 2000 == pytest.approx(0.25, abs=0.04)
    assert len(ids) == 2000 * 4 + clicks.total()


def test_every_body_is_one_the_gateway_takes(tmp_path: Path) -> None:
    directory = write_dataset(tmp_path)
    frame = pl.read_parquet(directory / "events" / "train.parquet").with_columns(seen=pl.lit(datetime(2026, 11, 1)))
    frame.write_parquet(directory / "events" / "train.parquet")
    spec = yaml.safe_load((directory / "dataset.yaml").read_text())
    spec["features"].append({"name": "seen", "side": "context", "kind": "categorical"})
    (directory / "dataset.yaml").write_text(yaml.safe_dump(spec))
    traffic = Traffic.read(directory, seed=0)
    for _ in range(50):
        RecommendRequest.model_validate_json(json.dumps(traffic.recommend()))
        ScoreRequest.model_validate_json(json.dumps(traffic.score()))
        for event in traffic.feedback("u", recommend_answer())["events"]:
            FeedbackEvent.model_validate_json(json.dumps(event))


def test_the_dataset_is_the_chosen_one_or_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDREC_LOAD_DATASET", "/logs")
    assert dataset_directory() == Path("/logs")
    monkeypatch.delenv("MDREC_LOAD_DATASET")
    monkeypatch.setenv("MDREC_HOME", "/var/lib/mdrec")
    from deploy.home import demo_dataset

    assert dataset_directory() == demo_dataset()


def test_a_dataset_without_events_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset\.yaml"):
        Traffic.read(tmp_path)
    (tmp_path / "dataset.yaml").write_text("name: empty")
    with pytest.raises(FileNotFoundError, match=r"no \.parquet file"):
        Traffic.read(tmp_path)
