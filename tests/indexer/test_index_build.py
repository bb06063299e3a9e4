"""From an exported tower to a published index: embeddings, recall, gate, determinism, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from domain_world import Domain, make_domain

from contracts.errors import BadInput, BundleError, WorkFailed
from contracts.files import save_array, sha256_file
from indexer.build import build_index, measure_recall
from indexer.coded import CodedIndex
from indexer.domain import build_domain
from indexer.index import ExactIndex, FaissCpuIndex, Matrix, open_index
from indexer.policy import IndexSpec
from indexer.tower import embed, open_session

IVF = IndexSpec("ivf_flat", nlist=40, nprobe=1)
CODED = IndexSpec("ivf_int8", nlist=40, reach=10)
SPECS = [IndexSpec("exact"), IVF, IndexSpec("ivf_sq8", nlist=40, nprobe=1), CODED]


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return make_domain(tmp_path / "domains" / "0", ads=3000)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_the_built_index_opens_and_finds_what_exact_search_finds(domain: Domain, spec: IndexSpec) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, k=20, recall_gate=0.9, spec=spec)
    assert (entry.kind, entry.size, entry.dimension, entry.recall_at, entry.recall_gate) == (spec.kind, 3000, 16, 20, 0.9)
    assert (domain.directory / entry.file).is_file() and entry.build_seconds > 0
    found = open_index(entry, domain.directory).search(domain.queries, 20).rows
    best = ExactIndex(domain.embeddings).search(domain.queries, 20).rows
    overlap = np.mean([len({*a} & {*b}) / 20 for a, b in zip(found, best, strict=True)])
    assert overlap >= 0.9 and overlap == pytest.approx(entry.recall, abs=0.01)


def test_nprobe_is_raised_until_the_gate_is_met_and_no_further(domain: Domain) -> None:
    reached = {gate: build_domain(domain.directory, "feed", domain.queries, 20, gate, IVF) for gate in (0.0, 0.7, 1.0)}
    assert [entry.parameters["nprobe"] for entry in reached.values()] == sorted(
        entry.parameters["nprobe"] for entry in reached.values()
    )
    assert reached[0.0].parameters == {"nlist": 40, "nprobe": 1} and reached[0.0].recall < 0.7
    assert all(entry.recall >= gate for gate, entry in reached.items())
    nprobe = reached[0.7].parameters["nprobe"]
    with_half = IndexSpec("ivf_flat", 40, nprobe // 2)
    half, _ = build_index(domain.embeddings, domain.queries, with_half, "feed", 20, 0.0, seed=0)
    best = ExactIndex(domain.embeddings).search(domain.queries, 20).scores
    assert measure_recall(domain.embeddings, domain.queries, half.search(domain.queries, 20).rows, best) < 0.7


def test_an_index_under_its_gate_is_not_published(tmp_path: Path) -> None:
    domain = make_domain(tmp_path / "0", ads=3000, with_dense=True)
    with pytest.raises(WorkFailed, match=r"'feed'.*recall@20 is 0\.\d+ .*gate 1\.0") as failure:
        build_domain(domain.directory, "feed", domain.queries, 20, 1.0, IndexSpec("ivf_sq8", 40, 1))
    assert "ivf_flat" in failure.value.hint
    assert not list(domain.directory.glob("index.*"))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_equal_inputs_give_equal_bytes(tmp_path: Path, spec: IndexSpec) -> None:
    def digest(at: str, seed: int, threads: int, workers: int) -> str:
        faiss.omp_set_num_threads(threads)
        domain = make_domain(tmp_path / at, ads=9000)
        entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, spec, seed, workers)
        lists = sorted((domain.directory / "lists").glob("*"))
        return " ".join(sha256_file(path) for path in (domain.directory / entry.file, *lists))

    first = digest("a", seed=1, threads=1, workers=1)
    assert digest("b", seed=1, threads=1, workers=1) == first
    assert digest("c", seed=1, threads=2, workers=3) == first, "neither threads nor workers change a byte"
    if spec.kind != "exact":
        assert digest("d", seed=2, threads=1, workers=1) != first


def test_by_default_the_policy_chooses(domain: Domain) -> None:
    assert build_domain(domain.directory, "feed", domain.queries, 20).kind == "exact"


def test_a_single_ad_is_a_domain(tmp_path: Path) -> None:
    domain = make_domain(tmp_path, ads=1)
    entry = build_domain(domain.directory, "feed", domain.queries, 100)
    assert open_index(entry, domain.directory).search(domain.queries[:1], 10).rows.tolist() == [[0]]


def test_a_domain_without_ads_is_refused_by_name(tmp_path: Path) -> None:
    domain = make_domain(tmp_path, ads=0)
    with pytest.raises(BadInput, match="'feed' has no ads"):
        build_domain(domain.directory, "feed", domain.queries)


def test_a_domain_without_queries_is_refused_by_name(domain: Domain) -> None:
    with pytest.raises(BadInput, match="'feed' has no sample queries"):
        build_domain(domain.directory, "feed", domain.queries[:0])


def test_unusable_embeddings_are_counted(domain: Domain) -> None:
    dense = np.zeros((3000, 3), np.float32)
    dense[[5, 9]] = np.nan
    save_array(domain.directory / "ads" / "dense.npy", dense)
    with pytest.raises(WorkFailed, match="'feed': 2 of 3000 ad embeddings"):
        build_domain(domain.directory, "feed", domain.queries)
    bad_queries = domain.queries.copy()
    bad_queries[0, 0] = np.inf
    with pytest.raises(WorkFailed, match="1 of 60 user embeddings"):
        build_index(domain.embeddings, bad_queries, IVF, "feed", 10, 0.5, 0)


def test_ad_matrices_that_disagree_are_refused(domain: Domain) -> None:
    save_array(domain.directory / "ads" / "dense.npy", np.zeros((2999, 3), np.float32))
    with pytest.raises(BadInput, match=r"3000 rows.*2999"):
        build_domain(domain.directory, "feed", domain.queries)


# --- recall ---------------------------------------------------------------------------------------------------------------

LINE: Matrix = np.array([[4.0], [3.0], [2.0], [1.0]], dtype=np.float32)
ONE: Matrix = np.ones((1, 1), dtype=np.float32)


@pytest.mark.parametrize(
    ("rows", "expected"), [([0, 1], 1.0), ([1, 0], 1.0), ([0, 3], 0.5), ([2, 3], 0.0), ([0, -1], 0.5), ([-1, -1], 0.0)]
)
def test_recall_by_hand(rows: list[int], expected: float) -> None:
    assert measure_recall(LINE, ONE, np.array([rows]), np.array([[4.0, 3.0]], np.float32)) == expected


def test_padding_is_never_a_hit() -> None:
    """Row -1 must not be read as the last ad, here the best one."""
    assert measure_recall(LINE[::-1], ONE, np.array([[3, -1]]), np.array([[4.0, 3.0]], np.float32)) == 0.5


def test_recall_accepts_either_of_equal_ads() -> None:
    """Popularity gives many ads the same embedding: which of them fill the last places is nobody's error."""
    tied = np.array([[2.0], [1.0], [1.0], [1.0], [0.5]], dtype=np.float32)
    best = np.array([[2.0, 1.0]], np.float32)
    assert [measure_recall(tied, ONE, np.array([[0, last]]), best) for last in (1, 2, 3, 4)] == [1.0, 1.0, 1.0, 0.5]


def test_recall_of_many_queries_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors, queries = random.standard_normal((200, 4)).astype(np.float32), random.standard_normal((30, 4)).astype(np.float32)
    best = ExactIndex(vectors).search(queries, 10)
    rows = np.where(random.random((30, 10)) < 0.3, -1, best.rows)
    expected = np.mean(rows >= 0)
    assert measure_recall(vectors, queries, rows, best.scores) == pytest.approx(expected)
    monkeypatch.setattr("indexer.build._GATHERED_AT_ONCE", 1)
    assert measure_recall(vectors, queries, rows, best.scores) == pytest.approx(expected)


# --- tower ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "workers"), [(4096, 1), (7, 1), (7, 3), (100, 2), (1, 2)])
@pytest.mark.parametrize("with_dense", [True, False])
def test_embeddings_are_the_towers_in_order(tmp_path: Path, with_dense: bool, chunk: int, workers: int) -> None:
    domain = make_domain(tmp_path, ads=100, with_dense=with_dense)
    codes, dense = np.load(tmp_path / "ads" / "codes.npy"), np.load(tmp_path / "ads" / "dense.npy")
    found = embed(open_session(tmp_path / "ad_tower.onnx"), {"ad_codes": codes, "ad_dense": dense}, chunk, workers)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, domain.embeddings, rtol=1e-5, atol=1e-5)


def test_a_tower_fed_wrongly_says_what_it_reads(domain: Domain) -> None:
    session = open_session(domain.directory / "ad_tower.onnx")
    codes, dense = np.zeros((4, 2), np.int32), np.zeros((3, 3), np.float32)
    with pytest.raises(BadInput, match="reads ad_dense, fed are ad_codes"):
        embed(session, {"ad_codes": codes})
    with pytest.raises(BadInput, match=r"\[3, 4\] rows"):
        embed(session, {"ad_codes": codes, "ad_dense": dense})
    with pytest.raises(BadInput, match=r"\[0\] rows"):
        embed(session, {"ad_codes": codes[:0], "ad_dense": dense[:0]})


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"\0" * 100])
def test_a_damaged_tower_is_named(domain: Domain, damage: Callable[[bytes], bytes]) -> None:
    path = domain.directory / "ad_tower.onnx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=r"ad_tower\.onnx"):
        open_session(path)


def test_a_missing_tower_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ad_tower\.onnx is missing"):
        open_session(tmp_path / "ad_tower.onnx")


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_a_damaged_index_is_named(domain: Domain, spec: IndexSpec) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, spec)
    path = domain.directory / entry.file
    whole = path.read_bytes()
    for keep in (0, 3, 40, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(BundleError, match=path.name):
            open_index(entry, domain.directory)
    path.write_bytes(b"\x93NUMPY" + bytes(range(256)))
    with pytest.raises(BundleError, match=path.name):
        open_index(entry, domain.directory)
    path.unlink()
    with pytest.raises(BundleError, match=f"{path.name} is missing"):
        open_index(entry, domain.directory)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_an_index_that_is_not_its_entrys_is_refused(domain: Domain, spec: IndexSpec) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, spec)
    for other in ({"size": 2999}, {"dimension": 15}):
        with pytest.raises(BundleError, match=entry.file):
            open_index(entry.model_copy(update=other), domain.directory)


@pytest.mark.parametrize("spec", SPECS[1:3], ids=lambda spec: spec.kind)
def test_an_opened_index_equals_the_saved_one_and_saves_again(domain: Domain, spec: IndexSpec) -> None:
    index, recall = build_index(domain.embeddings, domain.queries, spec, "feed", 20, 0.8, seed=0)
    assert isinstance(index, FaissCpuIndex)
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.8, spec)
    opened = open_index(entry, domain.directory)
    assert isinstance(opened, FaissCpuIndex) and opened.nprobe == index.nprobe and entry.recall == pytest.approx(recall, abs=0.02)
    eligible = np.random.default_rng(0).random(3000) < 0.5
    for mask in (None, eligible):
        saved, again = index.search(domain.queries, 30, mask), opened.search(domain.queries, 30, mask)
        np.testing.assert_allclose(again.scores, saved.scores, rtol=1e-4, atol=1e-4)


def test_opened_indices_are_mapped_and_start_no_threads_per_search(domain: Domain) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, IVF)
    opened = open_index(entry, domain.directory)
    assert isinstance(opened, FaissCpuIndex)
    lists = faiss.downcast_InvertedLists(opened.index.invlists)
    assert isinstance(lists, faiss.OnDiskInvertedLists) and lists.prefetch_nthread == 0
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, IndexSpec("exact"))
    exact = open_index(entry, domain.directory)
    assert isinstance(exact, ExactIndex) and isinstance(exact.vectors_NE, np.memmap) and not exact.vectors_NE.flags.writeable


def test_an_unknown_device_is_refused(domain: Domain) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, IVF)
    for device in ("tpu", "gpu:99"):
        with pytest.raises(BadInput, match="cpu"):
            open_index(entry, domain.directory, device)


# --- coded lists ----------------------------------------------------------------------------------------------------------


def test_opened_lists_are_mapped_and_answer_as_the_built_ones(domain: Domain) -> None:
    built, recall = build_index(domain.embeddings, domain.queries, CODED, "feed", 20, 0.8, seed=0)
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.8, CODED)
    opened = open_index(entry, domain.directory)
    assert isinstance(built, CodedIndex) and isinstance(opened, CodedIndex)
    assert opened.reach == built.reach == entry.parameters["reach"] and entry.recall == pytest.approx(recall, abs=0.02)
    assert all(isinstance(one, np.memmap) for one in (opened.exact.vectors_NE, opened.lists.codes_NW, opened.lists.row_N))
    for mask in (None, np.random.default_rng(0).random(3000) < 0.5):
        saved, again = built.search(domain.queries, 30, mask), opened.search(domain.queries, 30, mask)
        np.testing.assert_allclose(again.scores, saved.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["codes", "row", "start", "mean", "spread", "step"])
def test_lists_that_do_not_fit_are_named(domain: Domain, name: str) -> None:
    entry = build_domain(domain.directory, "feed", domain.queries, 20, 0.5, CODED)
    path = domain.directory / "lists" / f"{name}.npy"
    array = np.load(path)
    wrong = {"row": array + 1, "start": array[::-1].copy()}.get(name, array[:-1])
    save_array(path, wrong)
    with pytest.raises(BundleError, match="lists does not fit"):
        open_index(entry, domain.directory)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}.npy is missing"):
        open_index(entry, domain.directory)
    with pytest.raises(BundleError, match="names no reach"):
        open_index(entry.model_copy(update={"parameters": {}}), domain.directory)
