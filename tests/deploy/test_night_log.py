"""What a night did can be read while it runs, after it ended, and after it was killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.manifest import Gate
from contracts.nights import KEEP_NIGHTS, NightRecord, read_nights
from deploy.night_log import diary
from deploy.steps import Steps

EVENING = datetime(2026, 11, 27, 2, tzinfo=UTC)
GATE = Gate(name="auc lead", domain="feed", value=0.1, live=0.3, threshold=0.13, passed=False)


def steps(home: Path, log: object) -> Steps:
    return Steps(home / "work", lambda line: None, log.step)  # type: ignore[attr-defined]


def latest(home: Path) -> NightRecord:
    return read_nights(home, 1)[0][0]


def test_steps_are_on_record_as_they_begin_and_end_and_a_reused_one_says_so(tmp_path: Path) -> None:
    def outer(path: Path) -> None:
        steps(tmp_path, log).run("inner", {}, lambda path: seen.append(latest(tmp_path).running))
        seen.append(latest(tmp_path).running)

    seen: list[str | None] = []
    with diary(tmp_path) as log:
        steps(tmp_path, log).run("outer", {}, outer)
        assert (seen, latest(tmp_path).running, latest(tmp_path).status) == (["inner", "outer"], None, "unfinished")
    assert [(one.name, one.reused) for one in latest(tmp_path).steps] == [("inner", False), ("outer", False)]
    with diary(tmp_path) as log:
        steps(tmp_path, log).run("outer", {}, outer)
    assert [(one.name, one.reused) for one in latest(tmp_path).steps] == [("outer", True)]
    assert len(read_nights(tmp_path, 9)[0]) == 2


def test_what_was_published_and_what_was_held_back_keep_their_gates(tmp_path: Path) -> None:
    clock = iter(EVENING + timedelta(seconds=at) for at in range(9))
    with diary(tmp_path, lambda: next(clock)) as log:
        log.published("a", "b1", [GATE.model_copy(update={"passed": True})])
        log.held_back("b", "1 gate failed", [GATE])
        log.experiment("x", "hold: too few")
    found = latest(tmp_path)
    assert (found.night, found.status, found.seconds) == ("20261127T020000.000000Z", "held back", 4.0)
    assert [(one.recipe, one.published, one.why) for one in found.recipes] == [("a", True, None), ("b", False, "1 gate failed")]
    assert found.recipes[1].gates == [GATE] and found.experiments[0].words == "hold: too few"


def test_a_night_that_fails_says_where_and_why(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise MemoryError("no more")

    with pytest.raises(MemoryError), diary(tmp_path) as log:
        steps(tmp_path, log).run("train", {}, broken)
    found = latest(tmp_path)
    assert (found.status, found.running, found.error) == ("failed", "train", "MemoryError: no more")
    assert found.ended is not None


def test_a_damaged_file_hides_no_other_night_and_old_ones_go(tmp_path: Path) -> None:
    for at in range(KEEP_NIGHTS + 2):
        with diary(tmp_path, lambda at=at: EVENING + timedelta(days=at)):  # type: ignore[misc]
            pass
    found, damaged = read_nights(tmp_path, 1000)
    assert len(found) == KEEP_NIGHTS and damaged == []
    assert found[0].started - found[-1].started == timedelta(days=KEEP_NIGHTS - 1)
    path = tmp_path / "nights" / f"{found[0].night}.json"
    path.write_bytes(path.read_bytes()[:40])
    left, damaged = read_nights(tmp_path, 2)
    assert [one.night for one in left] == [found[1].night] and damaged[0].file == path.name
