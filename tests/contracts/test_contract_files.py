"""Files are whole or absent; arrays come back bit for bit; damage is named."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import BundleError
from contracts.files import aside, load_array, read_json, replace_dir, save_array, sha256_file, write_bytes, write_json

DTYPES = ("<f4", "<f8", "<i4", "<i8", "|u1", "|b1", "<f2")


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), aside(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_nothing_is_visible_before_the_write_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with aside(path) as temporary:
        temporary.write_bytes(b"{}")
        assert not path.exists() and not list(tmp_path.glob("*.json"))
    assert path.read_bytes() == b"{}"


def test_writers_of_one_path_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    bodies = [bytes([at]) * 10_000 for at in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: write_bytes(path, body), bodies))
    assert path.read_bytes() in bodies
    assert list(tmp_path.iterdir()) == [path]


def test_equal_json_has_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": ["é", None]})
    write_json(tmp_path / "b", {"a": ["é", None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"a": ["é", None], "b": 1}


@pytest.mark.parametrize("damage", [b"", b'{"a": ', b"\xff\xfe", b"{}x"])
def test_damaged_json_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.json").write_bytes(damage)
    with pytest.raises(BundleError, match=r"x\.json is not valid"):
        read_json(tmp_path / "x.json")
    with pytest.raises(BundleError, match=r"y\.json is missing"):
        read_json(tmp_path / "y.json")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
    mmap=st.booleans(),
)
def test_arrays_round_trip_bit_for_bit(tmp_path: Path, shape: list[int], dtype: str, seed: int, mmap: bool) -> None:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(np.random.default_rng(seed).bytes(size), dtype="|u1" if dtype == "|b1" else dtype).reshape(shape)
    array = array > 7 if dtype == "|b1" else array
    save_array(tmp_path / "a.npy", array)
    back = load_array(tmp_path / "a.npy", mmap)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_mapped_array_cannot_be_written(tmp_path: Path) -> None:
    save_array(tmp_path / "a.npy", np.arange(9))
    mapped = load_array(tmp_path / "a.npy")
    assert isinstance(mapped, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_transposed_arrays_are_stored_in_row_order(tmp_path: Path) -> None:
    save_array(tmp_path / "a.npy", np.arange(6).reshape(2, 3).T)
    assert load_array(tmp_path / "a.npy").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert load_array(tmp_path / "a.npy").flags.c_contiguous


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pickle"):
        save_array(tmp_path / "a.npy", np.array([{}], dtype=object))
    assert not (tmp_path / "a.npy").exists()
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "c.npy.npz", a=np.ones(2))
    (tmp_path / "c.npy.npz").rename(tmp_path / "c.npy")
    (tmp_path / "d.npy").write_bytes(pickle.dumps(list(range(99))))
    for name in "bcd":
        for mmap in (True, False):
            with pytest.raises(BundleError, match=rf"{name}\.npy"):
                load_array(tmp_path / f"{name}.npy", mmap)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 40), keep=st.floats(0, 1, exclude_max=True), mmap=st.booleans())
def test_a_truncated_array_is_named(tmp_path: Path, size: int, keep: float, mmap: bool) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.arange(size))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(BundleError, match=r"a\.npy"):
        load_array(path, mmap)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a\.npy is missing"):
        load_array(tmp_path / "a.npy")


def test_digest_is_sha256(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_directory_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    old, new = tmp_path / "there" / "final", tmp_path / "staging"
    write_bytes(old / "sub" / "a", b"1")
    write_bytes(old / "gone", b"1")
    write_bytes(new / "sub" / "a", b"2")
    replace_dir(new, old)
    assert not new.exists()
    assert {path.relative_to(old).as_posix(): path.read_bytes() for path in old.rglob("*") if path.is_file()} == {"sub/a": b"2"}
