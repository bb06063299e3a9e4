"""Search side by side: everybody at the gate, absent libraries named, effort found as the least that does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from indexer.index import ExactIndex, Matrix, Rows
from loadtests import search


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SECONDS_A_ROUND", 0.001)


def test_absent_libraries_are_named_and_ours_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {name: (f"no_such_{name}", make) for name, (_, make) in search.PEERS.items()}
    monkeypatch.setattr(search, "PEERS", absent)
    milliseconds = search.compare(2000, k=50, rounds=2)
    told = capsys.readouterr().out
    for name in absent:
        assert f"{name}: left out, not installed" in told
    assert "mdrec (exact)" in told and [len(spent) for spent in milliseconds.values()] == [2]


def half_blind(ads_NE: Matrix) -> Callable[[int], search.Search]:
    """A search that sees the first `effort` ads."""

    def at(effort: int) -> search.Search:
        def found(query_1E: Matrix) -> Rows:
            return ExactIndex(ads_NE[:effort]).search(query_1E, 50).rows

        return found

    return at


def test_the_least_effort_at_the_gate_is_found_and_none_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "GATE", 0.7)
    ads, users = search.world(1000)
    best = ExactIndex(ads).search(users, 50).scores
    monkeypatch.setitem(search.PEERS, "fake", ("math", lambda library, ads, k: [("ads", half_blind(ads), 100)]))
    entry = search.peer("fake", ads, users, best, 50)
    assert entry is not None and entry.recall >= search.GATE
    effort = int(entry.name.rstrip(")").split()[-1])
    assert 600 < effort < 850, "of ads in random order seven of ten must be seen"
    blind = SimpleNamespace(rows=np.zeros((1, 50), np.int64))
    monkeypatch.setitem(
        search.PEERS, "fake", ("math", lambda library, ads, k: [("ads", lambda effort: lambda query: blind.rows, 100)])
    )
    assert search.peer("fake", ads, users, best, 50) is None


def test_lifted_ads_are_nearest_where_their_inner_product_is_highest() -> None:
    ads, users = search.world(300)
    lifted = search._lifted(ads)
    assert np.allclose(np.square(lifted).sum(axis=1), np.square(lifted).sum(axis=1)[0], rtol=1e-4)
    far = np.square(lifted - np.append(users[0], 0.0)).sum(axis=1)
    assert np.argsort(far)[:20].tolist() == ExactIndex(ads).search(users[:1], 20).rows[0].tolist()
