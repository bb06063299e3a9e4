"""Definitions on disk and in Redis: errors that name the field, versions, and an audit without gaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from abtest import actions
from abtest.assign import Assigner
from abtest.experiments import Definitions, ExperimentStore, VersionConflict, load_file, parse, snapshot
from contracts.errors import BadInput
from contracts.keys import EXPERIMENTS, EXPERIMENTS_AUDIT, EXPERIMENTS_CHANGED
from tests.abtest.test_assign import arms, ranker


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def test_yaml_json_and_the_growthbook_payload_are_one(tmp_path: Path) -> None:
    body = json.loads(ranker().body())
    (tmp_path / "a.json").write_text(json.dumps(body))
    (tmp_path / "b.json").write_text(json.dumps({**body, "status": 200, "dateUpdated": "2026-11-01"}))
    (tmp_path / "c.yaml").write_text(
        "ranker:\n  rules:\n    - key: ranker-test\n      hashVersion: 2\n"
        "      variations: [{recipe: adi+shared_dnn}, {recipe: adi+dsfm, params: {k: 5}}]\n"
        "      meta: [{key: control}, {key: challenger}]\n"
    )
    assert [arms(load_file(tmp_path / name)) == arms(ranker()) for name in ("a.json", "b.json", "c.yaml")] == [True] * 3


def test_a_rule_survives_storage_with_its_force_null_or_absent() -> None:
    definitions = parse('{"f": {"defaultValue": 1, "rules": [{"force": null, "condition": {"a": 1}}, {"variations": [1, 2]}]}}')
    again = parse(definitions.body())
    assert [rule.forces for rule in again.features["f"].rules] == [True, False]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"coverge": 0.5}, r"ranker\.rules\.0.*unknown field 'coverge', did you mean 'coverage'"),
        ({"coverage": 1.5}, "features.ranker.rules.0.coverage: 1.5"),
        ({"weights": [0.5, 0.2]}, "weights"),
        ({"weights": [1.0]}, "2 shares"),
        ({"weights": "half"}, "weights"),
        ({"hashVersion": 3}, "hashVersion"),
        ({"ranges": [[0, 0.6], [0.5, 1]]}, "overlap"),
        ({"ranges": [[0, 0.6]]}, "1 ranges for 2 arms"),
        ({"meta": [{"key": "x"}, {"key": "x"}]}, "same key"),
        ({"variations": [{"recipe": "a"}]}, "two or more"),
        ({"variations": [{"recipe": "a"}, {"recipe": 3}]}, r"variations\.1"),
        ({"variations": [{"recipe": "a"}, {"recipe": "b", "parms": {}}]}, r"variations\.1"),
    ],
)
def test_a_wrong_definition_names_file_and_field(tmp_path: Path, rule: dict[str, Any], message: str) -> None:
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps({"ranker": {"rules": [{"variations": [{"recipe": "a"}, {"recipe": "b"}], **rule}]}}))
    with pytest.raises(BadInput, match=message) as caught:
        load_file(path)
    assert str(path) in caught.value.message


def test_two_rules_may_not_share_an_experiment_key(tmp_path: Path) -> None:
    rule = {"key": "same", "variations": [1, 2]}
    (tmp_path / "x.json").write_text(json.dumps({"a": {"rules": [rule]}, "b": {"rules": [rule]}}))
    with pytest.raises(BadInput, match=r"already defined by features\.a"):
        load_file(tmp_path / "x.json")


@pytest.mark.parametrize("text", ["{", "[1]", "a: [", "\x00"])
def test_a_broken_file_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"x\.yaml"):
        load_file(tmp_path / "x.yaml")
    with pytest.raises(BadInput, match="cannot read"):
        load_file(tmp_path / "none.yaml")


def test_a_write_is_read_back_and_audited(client: redis.Redis) -> None:
    store = ExperimentStore(client)
    assert store.read().version == 0
    store.write(ranker(coverage=0.1), who="ann", expected_version=0, why="start")
    store.write(ranker(coverage=0.5), who="bob", expected_version=1)
    assert store.read().version == 2
    assert store.read().definitions == ranker(coverage=0.5)
    assert snapshot(client.hgetall(EXPERIMENTS)) == store.read()
    latest, first = store.history()
    assert (latest.version, latest.who, latest.diff) == (2, "bob", {"features.ranker.rules.0.coverage": [0.1, 0.5]})
    assert (first.version, first.who, first.why) == (1, "ann", "start")


def test_the_slower_of_two_operators_is_refused_and_changes_nothing(client: redis.Redis) -> None:
    store = ExperimentStore(client)
    store.write(ranker(coverage=0.1), who="ann", expected_version=0)
    for stale in (0, 2):
        with pytest.raises(VersionConflict, match="at version 1"):
            store.write(ranker(coverage=0.9), who="bob", expected_version=stale)
    assert store.read().definitions == ranker(coverage=0.1)
    assert len(store.history()) == 1


def test_wrong_or_unit_moving_definitions_are_not_stored(client: redis.Redis) -> None:
    store = ExperimentStore(client)
    store.write(ranker(weights=[0.9, 0.1]), who="ann", expected_version=0)
    for bad in (ranker(weights=[0.5, 0.5]), ranker(coverage=7)):
        with pytest.raises(BadInput):
            store.write(bad, who="ann", expected_version=1)
    assert store.read().version == 1


def test_a_writer_that_dies_before_the_audit_leaves_no_gap(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExperimentStore(client)
    store.write(ranker(coverage=0.1), who="ann", expected_version=0)
    with monkeypatch.context() as patched:
        patched.setattr(ExperimentStore, "_file_audit", lambda self: None)
        store.write(ranker(coverage=0.2), who="ann", expected_version=1)
    assert client.xlen(EXPERIMENTS_AUDIT) == 1
    store.write(ranker(coverage=0.3), who="bob", expected_version=2)
    assert [(one.version, one.who) for one in store.history()] == [(3, "bob"), (2, "ann"), (1, "ann")]


def test_a_change_without_a_version_is_made_again_when_somebody_was_first(client: redis.Redis) -> None:
    store = ExperimentStore(client)
    store.write(ranker(coverage=0.1), who="ann", expected_version=0)
    seen: list[float | None] = []

    def meanwhile(now: Definitions) -> Definitions:
        seen.append(now.experiment("ranker-test").coverage)
        if len(seen) == 1:
            store.write(ranker(coverage=0.2), who="bob", expected_version=1)
        return actions.pause(now, "ranker-test")

    after = store.change(meanwhile, who="ann")
    assert (after.version, seen) == (3, [0.1, 0.2])
    assert after.definitions == ranker(coverage=0.2, active=False) == store.read().definitions
    with pytest.raises(VersionConflict):
        store.change(meanwhile, who="ann", expected_version=2)


def test_a_rehearsal_stores_nothing_and_finds_what_a_write_would(client: redis.Redis) -> None:
    store = ExperimentStore(client)
    store.write(ranker(weights=[0.9, 0.1]), who="ann", expected_version=0)
    after, diff = store.rehearse(lambda now: actions.kill(now), expected_version=1)
    assert (after.version, diff, store.read().version) == (2, {"active": [None, False]}, 1)
    with pytest.raises(BadInput, match="would change arms"):
        store.rehearse(lambda now: now.amend("ranker-test", weights=[0.5, 0.5]))
    with pytest.raises(VersionConflict):
        store.rehearse(actions.kill, expected_version=0)


def test_every_write_is_announced(client: redis.Redis) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(EXPERIMENTS_CHANGED)
        channel.get_message(timeout=5)
        ExperimentStore(client).write(ranker(), who="ann", expected_version=0)
        assert channel.get_message(timeout=5)["data"] == b"1"


def test_a_draft_starts_once_and_a_stopped_one_never_again() -> None:
    draft = ranker(status="draft")
    running = actions.start(draft, "ranker-test")
    assert arms(running) == arms(ranker()) != arms(draft) == {}
    for done in (running, actions.stop(running, "ranker-test")):
        with pytest.raises(BadInput, match="not a draft"):
            actions.start(done, "ranker-test")
    with pytest.raises(BadInput, match="no arm 'nobody'"):
        actions.stop(running, "ranker-test", "nobody")
    released = actions.stop(actions.pause(running, "ranker-test"), "ranker-test", "control")
    assert Assigner(released).route("u1", "feed").recipe == "adi+shared_dnn"  # a pause does not hold back what is released
