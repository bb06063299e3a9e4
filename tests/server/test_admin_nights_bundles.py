"""Nights and bundles over HTTP: what happened, by the numbers, and what is damaged beside what is not."""

from __future__ import annotations

import json
from pathlib import Path

from contracts.aliases import Aliases
from contracts.files import read_json, write_json
from contracts.manifest import MANIFEST, Gate
from deploy.night_log import diary
from tests.server.live import Running, eventually
from tests.server.test_admin import call
from tests.server.test_bad_input import problem
from tests.server.worlds import DOMAINS, World

GATE = Gate(name="auc lead", domain="feed", value=0.2, live=0.3, threshold=0.13, passed=True)


def test_nights_are_listed_latest_first_with_what_is_damaged(served: Running, home: Path) -> None:
    assert call(served, "GET", "nights").json() == {"nights": [], "damaged": []}
    for bundle_id in ("b1", "b2"):
        with diary(home) as log:
            log.step("tables", 1.5, True)
            log.published("adi+dsfm", bundle_id, [GATE])
    answer = call(served, "GET", "nights")
    first, second = answer.json()["nights"]
    assert [one["recipes"][0]["bundle_id"] for one in (first, second)] == ["b2", "b1"]
    assert first["steps"] == [{"name": "tables", "seconds": 1.5, "reused": True}]
    assert first["recipes"][0]["gates"] == [GATE.model_dump()]
    assert call(served, "GET", "nights", **{"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert len(call(served, "GET", "nights?count=1").json()["nights"]) == 1
    (home / "nights" / f"{first['night']}.json").write_text("{")
    left = call(served, "GET", "nights").json()
    assert [one["night"] for one in left["nights"]] == [second["night"]]
    assert left["damaged"][0]["file"] == f"{first['night']}.json"
    problem(call(served, "GET", "nights?count=0"), 422)


def test_bundles_are_listed_with_their_gates_and_what_becomes_of_them(served: Running, home: Path) -> None:
    manifest = World(bundle_id="b2").build(home, alias=False) / MANIFEST
    write_json(manifest, {**read_json(manifest), "gates": [GATE.model_dump()], "metrics": {"auc": {"mean": 0.7}}})
    rows = call(served, "GET", "bundles").json()["bundles"]
    assert [(one["bundle_id"], one["status"], one["champion"]) for one in rows] == [("b2", "kept", False), ("b1", "live", True)]
    assert rows[0]["gates"] == [GATE.model_dump()] and rows[0]["metrics"] == {"auc": {"mean": 0.7}}
    assert [one["domain"] for one in rows[0]["domains"]] == list(DOMAINS)
    sizes = {path.as_posix(): path.stat().st_size for path in (home / "bundles/b1/domains/0").rglob("*") if path.is_file()}
    assert rows[1]["domains"][0]["bytes"] == sum(sizes.values()) and rows[1]["bytes"] > 4 * sum(sizes.values())
    call(served, "PUT", "aliases/adi+dsfm", {"bundle_id": "b2"})
    eventually(lambda: served.recommend()["bundle_id"] == "b2")
    status = {one["bundle_id"]: one["status"] for one in call(served, "GET", "bundles").json()["bundles"]}
    assert status == {"b1": "previous", "b2": "live"}


def test_a_refused_bundle_says_why_and_a_damaged_one_hides_no_other(served: Running, home: Path) -> None:
    broken = World(bundle_id="b2").build(home, alias=False)
    (broken / "golden.npz").write_bytes(b"")
    Aliases(home).move("adi+dsfm", "b2")
    eventually(lambda: served.gateway.registry.refused)
    (row,) = [one for one in call(served, "GET", "bundles").json()["bundles"] if one["bundle_id"] == "b2"]
    assert row["status"] == "refused" and "golden.npz" in row["refused"]
    manifest = broken / MANIFEST
    manifest.write_text(json.dumps({**read_json(manifest), "recipe": 7}))
    found = call(served, "GET", "bundles").json()
    assert [one["bundle_id"] for one in found["bundles"]] == ["b1"]
    assert found["damaged"][0]["bundle_id"] == "b2" and "recipe" in found["damaged"][0]["why"]
