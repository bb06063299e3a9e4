"""A bundle that is missing a byte, a file, or its golden batch never serves, and the reason names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from contracts.errors import BundleError
from contracts.manifest import Manifest
from server import inference
from server.bundle import Bundle
from server.golden import GOLDEN, feeds
from tests.server.worlds import World
from trainer.export import _aligned


@pytest.fixture
def directory(home: Path) -> Path:
    return World(with_encoder=True, kind="ivf_flat").build(home)


def republish(directory: Path) -> None:
    """Make the digests right again: what remains wrong must be found by opening and replaying."""
    Manifest.load(directory).publish(directory)


def cut(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def flip(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))

    return damage


def test_a_whole_bundle_loads_and_replays_exactly(directory: Path) -> None:
    bundle = Bundle(directory)
    assert list(bundle.domains) == ["feed", "search", "video", "mail"]
    assert bundle.golden_difference == 0.0
    assert bundle.user_domain_encoder is not None
    assert bundle.ranker_form is not None and bundle.ranker_form.form == "graph"  # hand-made: it names no architecture
    assert bundle.providers == ["CPUExecutionProvider"]


PARTS = [
    "domains/1/index.faiss",
    "domains/0/user_tower.onnx",
    "domains/2/ad_tower.onnx",
    "ranker.onnx",
    "user_domain_encoder.onnx",
    "domain_vectors.npy",
    "golden.npz",
    "schema/schema.json",
    "schema/vocab/ad_id.blob.npy",
    "domains/3/ads/ids.offsets.npy",
    "domains/3/ads/codes.npy",
]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", [cut, flip])
def test_damage_is_found_by_the_digest(directory: Path, name: str, damage: Callable[[str], Callable[[Path], None]]) -> None:
    damage(name)(directory)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Bundle(directory)


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle(directory)


@pytest.mark.parametrize(
    "name", ["domains/1/index.faiss", "ranker.onnx", "domain_vectors.npy", "golden.npz", "domains/3/ads/codes.npy"]
)
def test_a_file_that_was_cut_before_the_digest_is_refused(directory: Path, name: str) -> None:
    cut(name)(directory)
    republish(directory)
    with pytest.raises(BundleError):
        Bundle(directory)


def test_a_truncated_or_foreign_manifest_is_refused(directory: Path) -> None:
    path = directory / "manifest.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle(directory)
    path.write_text(json.dumps({**json.loads(whole), "format": 99}))
    with pytest.raises(BundleError, match="format 99"):
        Bundle(directory)


def golden_of(directory: Path) -> dict[str, np.ndarray]:
    with np.load(directory / GOLDEN) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize(
    "graph", ["ranker/out/p_click", "domains/2/user_tower/out/embedding", "domains/0/ad_tower/out/embedding"]
)
def test_another_answer_than_the_golden_one_is_refused(directory: Path, graph: str) -> None:
    arrays = golden_of(directory)
    arrays[graph] = arrays[graph] + 0.01
    np.savez(directory / GOLDEN, **arrays)
    republish(directory)
    with pytest.raises(BundleError, match="golden batch of"):
        Bundle(directory)


def test_every_graph_needs_a_golden_batch(directory: Path) -> None:
    arrays = {name: value for name, value in golden_of(directory).items() if not name.startswith("domains/1/user_tower")}
    np.savez(directory / GOLDEN, **arrays)
    republish(directory)
    with pytest.raises(BundleError, match="no golden batch for domains/1/user_tower"):
        Bundle(directory)


def test_a_graph_of_other_inputs_than_the_manifest_says_is_refused(directory: Path) -> None:
    manifest = Manifest.load(directory)
    assert manifest.ranker is not None
    ranker = manifest.ranker.model_copy(update={"inputs": [*manifest.ranker.inputs, "user_dense"]})
    manifest.model_copy(update={"ranker": ranker}).publish(directory)
    with pytest.raises(BundleError, match=r"ranker\.onnx reads"):
        Bundle(directory)


def test_an_index_over_other_ads_is_refused(directory: Path, tmp_path: Path) -> None:
    other = World(bundle_id="other", ads=13, kind="ivf_flat").build(tmp_path / "elsewhere", alias=False)
    (directory / "domains/0/index.faiss").write_bytes((other / "domains/0/index.faiss").read_bytes())
    republish(directory)
    with pytest.raises(BundleError, match="13 x 4"):
        Bundle(directory)


def test_no_graph_starts_threads_of_its_own(directory: Path) -> None:
    for graph in Bundle(directory).graphs.values():
        options = graph._opened().get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_ad_towers_keep_no_weights_until_they_are_run(directory: Path) -> None:
    tower = Bundle(directory).domains["feed"].ad_tower
    assert tower._session is None
    with np.load(directory / GOLDEN) as golden:
        expected = golden["domains/0/ad_tower/out/embedding"]
    np.testing.assert_allclose(tower.run(feeds(directory, "domains/0/ad_tower")), expected, atol=1e-5)
    tower.path.unlink()
    tower.rest()
    with pytest.raises(BundleError, match=r"ad_tower\.onnx is missing"):
        tower.run(feeds(directory, "domains/0/ad_tower"))


def test_large_weights_are_mapped_and_give_the_same_answers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_MAPPED_BYTES", 1)
    path = directory / "domains/0/user_tower.onnx"
    path.write_bytes(_aligned(onnx.load(path)))
    republish(directory)
    tower = Bundle(directory).domains["feed"].user_tower
    mapped = [one.data_ptr() for one in tower._mapped]
    with np.load(directory / GOLDEN) as golden:
        expected = golden["domains/0/user_tower/out/embedding"]
    np.testing.assert_allclose(tower.run(feeds(directory, "domains/0/user_tower")), expected, atol=1e-5)
    (where,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tower.path) in line]
    start, end = (int(one, 16) for one in where.split()[0].split("-"))
    assert mapped and any(start <= one < end for one in mapped), "a view of the file, shared by all workers"
    tower.rest()
    assert str(tower.path) not in Path("/proc/self/maps").read_text(), "the file is let go with the session"


def test_a_session_computes_from_the_weights_it_was_given_not_from_a_copy(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = Bundle(directory).domains["feed"].user_tower
    asked = feeds(directory, "domains/0/user_tower")
    whole = tower.run(asked)
    monkeypatch.setattr(inference, "_MAPPED_BYTES", 1)
    read = inference.onnx_file.read
    monkeypatch.setattr(inference.onnx_file, "read", lambda path: ({}, {name: 2 * one for name, one in read(path)[1].items()}))
    tower.rest()
    assert not np.allclose(tower.run(asked), whole)
