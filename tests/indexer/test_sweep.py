"""The measured choice of an index: what is tried, what wins, what is remembered, and that small domains pay nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from domain_world import Domain, make_domain

from contracts.errors import WorkFailed
from contracts.manifest import IndexEntry
from indexer import sweep
from indexer.build import build_index, train
from indexer.coded import CodedIndex
from indexer.domain import build_domain
from indexer.index import FaissCpuIndex, Index, Matrix, open_index
from indexer.policy import EXACT, EXACT_BELOW, IndexSpec, candidates
from indexer.sweep import Swept, Wanted, fastest

WANTED = Wanted("feed", k=20, recall_gate=0.9, memory_bytes=1 << 30)
PLENTY = 1 << 40


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Domain:
    """3,000 ads that count as many."""
    monkeypatch.setattr("indexer.policy.EXACT_BELOW", 1000)
    return make_domain(tmp_path / "domains" / "0", ads=3000)


def timed(monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float]) -> list[int]:
    """Let candidates of so many lists (0: exact) take that long; returns the number of candidates of each sweep to come."""
    sweeps: list[int] = []

    def clock(indices: list[Index], queries_QE: Matrix, k: int) -> list[float]:
        sweeps.append(len(indices))
        return [milliseconds[one.nlist if isinstance(one, FaissCpuIndex | CodedIndex) else 0] for one in indices]

    monkeypatch.setattr(sweep, "_timed", clock)
    return sweeps


# --- what is tried --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ads", "k"), [(1, 500), (EXACT_BELOW - 1, 500), (30_000, 10_000)])
def test_where_exact_search_is_sure_to_win_nothing_else_is_tried(ads: int, k: int) -> None:
    assert candidates(ads, 64, k, PLENTY) == [EXACT]


@pytest.mark.parametrize(("ads", "k"), [(20_000, 500), (30_000, 3_000), (1_000_000, 500)])
def test_candidates_differ_in_lists_and_in_bytes_a_value(ads: int, k: int) -> None:
    found = candidates(ads, 64, k, PLENTY)
    assert len({(one.kind, one.nlist) for one in found}) == len(found) == 7
    assert [one.kind for one in found[:3]] == ["exact", "ivf_int8", "ivf_int8"] and all(one.reach > 0 for one in found[1:3])
    for spec in found[3:]:
        assert 1 <= spec.nprobe <= spec.nlist and spec.nprobe * ads / spec.nlist >= k, "the lists first tried can hold the answer"


def test_what_does_not_fit_the_memory_is_left_out() -> None:
    flat = IndexSpec("ivf_flat", 1000).bytes(1_000_000, 64)
    assert {one.kind for one in candidates(1_000_000, 64, 500, flat // 2)} == {"ivf_sq8"}
    (smallest,) = candidates(1_000_000, 64, 500, 1)
    assert (smallest.kind, smallest.nlist) == ("ivf_sq8", 1000)


@pytest.mark.parametrize(
    "spec",
    [EXACT, IndexSpec("ivf_flat", 40, 1), IndexSpec("ivf_sq8", 40, 1), IndexSpec("ivf_int8", 40, reach=10)],
    ids=lambda one: one.kind,
)
def test_bytes_are_about_those_of_the_file(domain: Domain, spec: IndexSpec) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, spec)
    files = [domain.directory / entry.file, *(domain.directory / "lists").glob("*")]
    assert sum(path.stat().st_size for path in files) == pytest.approx(spec.bytes(3000, 16), rel=0.05)


def test_known_centroids_give_the_same_index(domain: Domain) -> None:
    queries, spec = domain.queries, IndexSpec("ivf_sq8", 40, 4)
    flat = train(domain.embeddings, IndexSpec("ivf_flat", 40, 1), seed=0)
    centroids = flat.quantizer.reconstruct_n(0, 40)
    given = build_index(domain.embeddings, queries, spec, "feed", 20, 0.0, 0, train(domain.embeddings, spec, 0, centroids))[0]
    found = build_index(domain.embeddings, queries, spec, "feed", 20, 0.0, 0)[0]
    for one, other in zip(given.search(queries, 20), found.search(queries, 20), strict=True):
        assert (one == other).all()


# --- what wins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("milliseconds", "nlist"), [({0: 1.0, 55: 2.0, 219: 3.0}, 0), ({0: 9.0, 55: 5.0, 219: 3.0}, 219)])
def test_the_fastest_wins(domain: Domain, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float], nlist: int) -> None:
    timed(monkeypatch, milliseconds)
    swept = fastest(domain.embeddings, domain.queries, WANTED)
    assert swept.spec.nlist == nlist and [point.chosen for point in swept.points].count(True) == 1
    assert swept.recall >= 0.9 and all(point.recall >= 0.9 for point in swept.points)


def test_of_equally_fast_ones_the_one_that_finds_most_wins(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {0: 1.04, 55: 1.0, 219: 1.0})
    assert fastest(domain.embeddings, domain.queries, WANTED).spec == EXACT
    timed(monkeypatch, {0: 1.06, 55: 1.0, 219: 1.0})
    assert fastest(domain.embeddings, domain.queries, WANTED).spec != EXACT


def test_a_candidate_under_the_gate_is_out_and_all_of_them_are_an_error(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {0: 9.0, 55: 1.0, 219: 1.0})
    strict = replace(WANTED, recall_gate=1.0)
    kinds = {point.kind for point in fastest(domain.embeddings, domain.queries, strict).points}
    assert kinds == {"exact", "ivf_flat", "ivf_int8"}
    only_quantised = replace(strict, memory_bytes=IndexSpec("ivf_sq8", 219).bytes(3000, 16))
    with pytest.raises(WorkFailed, match=r"'feed'.*gate 1\.0"):
        fastest(domain.embeddings, domain.queries, only_quantised)


def test_after_its_time_no_further_candidate_is_begun(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SECONDS", -1.0)
    assert [point.kind for point in fastest(domain.embeddings, domain.queries, WANTED).points] == ["exact"]


def test_the_measured_choice_is_served_and_stands_in_the_entry(domain: Domain) -> None:
    """With the real clock: whichever wins, it opens, and it is the point marked as chosen."""
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.9)
    (chosen,) = (point for point in entry.swept if point.chosen)
    assert len(entry.swept) == 7 and chosen.kind == entry.kind and chosen.nlist == entry.parameters.get("nlist", 0)
    assert all(point.milliseconds > 0 and point.bytes > 0 for point in entry.swept)
    assert open_index(entry, domain.directory).search(domain.queries[:1], 20).rows.shape == (1, 20)
    assert IndexEntry(**entry.model_dump(mode="json")) == entry
    older = {name: value for name, value in entry.model_dump().items() if name != "swept"}
    assert IndexEntry(**older).swept == []


def test_a_small_domain_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = timed(monkeypatch, {})
    entry = build_domain(make_domain(tmp_path, ads=3000).directory, "feed", np.ones((1, 16), np.float32), memory=tmp_path / "m")
    assert (entry.kind, entry.swept, sweeps, (tmp_path / "m").exists()) == ("exact", [], [], False)


# --- what is remembered ---------------------------------------------------------------------------------------------------


def test_equal_domains_are_measured_once(domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = timed(monkeypatch, {0: 9.0, 55: 1.0, 219: 2.0})

    def again(wanted: Wanted = WANTED, ads: int = 3000) -> Swept:
        return fastest(domain.embeddings[:ads], domain.queries, wanted, tmp_path / "sweeps")

    first = again()
    assert sweeps == [7] and again().points == first.points == again(ads=2900).points and sweeps == [7]
    for other in (replace(WANTED, name="mail"), replace(WANTED, k=30), replace(WANTED, recall_gate=0.8)):
        before = len(sweeps)
        again(other)
        assert len(sweeps) == before + 1, other
    monkeypatch.setattr(sweep, "_machine", lambda: ["another"])
    before = len(sweeps)
    again()
    assert len(sweeps) == before + 1


def test_what_is_remembered_still_has_to_meet_the_gate(domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {0: 9.0, 55: 1.0, 219: 2.0})
    first = fastest(domain.embeddings, domain.queries, WANTED, tmp_path)
    assert first.spec.kind != "exact"
    (note,) = tmp_path.glob("*.json")
    weak = re.sub(r'"(nprobe|reach)": [1-9]\d*', r'"\1": 1', note.read_text())
    assert weak != note.read_text()
    note.write_text(weak)
    again = fastest(domain.embeddings, domain.queries, WANTED, tmp_path)
    assert again.spec.kind == first.spec.kind and again.recall >= 0.9


def test_what_no_longer_meets_the_gate_is_measured_anew(domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = timed(monkeypatch, {0: 9.0, 55: 1.0, 219: 2.0})
    first = fastest(domain.embeddings, domain.queries, WANTED, tmp_path)
    built, failed = sweep.build_index, []

    def worse(vectors: Any, queries: Any, spec: IndexSpec, *rest: Any) -> Any:
        if spec.kind == first.spec.kind:
            failed.append(spec)
            raise WorkFailed("recall is too low")
        return built(vectors, queries, spec, *rest)

    monkeypatch.setattr(sweep, "build_index", worse)
    again = fastest(domain.embeddings, domain.queries, WANTED, tmp_path)
    assert failed and again.spec.kind != first.spec.kind and again.recall >= 0.9 and len(sweeps) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{}", '[{"kind": "exact"}]'])
def test_a_damaged_note_is_measured_anew(domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    sweeps = timed(monkeypatch, {0: 9.0, 55: 1.0, 219: 2.0})
    first = fastest(domain.embeddings, domain.queries, WANTED, tmp_path)
    (note,) = tmp_path.glob("*.json")
    note.write_text(damage)
    assert fastest(domain.embeddings, domain.queries, WANTED, tmp_path).points == first.points and sweeps == [7, 7]
