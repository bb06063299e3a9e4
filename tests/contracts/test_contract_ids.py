"""Any unicode string is an id, and comes back as it went in."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.errors import BundleError
from contracts.ids import IdTable

# Also lone surrogates, which broken upstream encoders do produce; é in both normal forms stays two ids.
HOSTILE = [
    "",
    " ",
    "\0",
    "a\0b",
    "a",
    "A",
    "é",
    "e\u0301",
    "\ud800",
    "\udfff",
    "😀",
    "\ufeff",
    "\n",
    "5",
    "5.0",
    "05",
    "-1",
    "None",
    "nan",
    ":",
    "_meta",
]
any_ids = st.lists(st.text(st.characters(exclude_categories=[])), unique=True, max_size=20)


@settings(deadline=None)
@given(ids=any_ids, others=any_ids)
@example(ids=HOSTILE, others=["zz"])
def test_round_trip(ids: list[str], others: list[str]) -> None:
    table = IdTable(ids)
    with tempfile.TemporaryDirectory() as directory:
        table.save(Path(directory) / "ids")
        loaded = IdTable.load(Path(directory) / "ids")
    for one in (table, loaded):
        assert list(one) == ids and len(one) == len(ids)
        assert one.find(ids).tolist() == list(range(len(ids)))
        assert one.take(one.find(ids[::-1])) == ids[::-1]
        unknown = [other for other in others if other not in ids]
        assert one.find(unknown).tolist() == [-1] * len(unknown)
    assert loaded.find(ids).dtype == np.int64


def test_ids_of_one_checksum_are_told_apart() -> None:
    """CRC-32 of "plumless" and "buckeroo" is the same."""
    table = IdTable(["a", "plumless", "buckeroo"])
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    assert table.find(["buckeroo", "plumless", "a", "b"]).tolist() == [2, 1, 0, -1]
    assert IdTable(["plumless"]).find(["buckeroo"]).tolist() == [-1]


def test_a_table_without_checksums_is_read_as_well(tmp_path: Path) -> None:
    IdTable(HOSTILE).save(tmp_path / "ids")
    for part in ("sums", "rows"):
        (tmp_path / f"ids.{part}.npy").unlink()
    assert IdTable.load(tmp_path / "ids").find([*HOSTILE, "zz"]).tolist() == [*range(len(HOSTILE)), -1]


def test_many_ids_at_once_are_found_as_few_are() -> None:
    table = IdTable(str(at) for at in range(3000))
    asked = [str(at) for at in range(2990, 9000)]
    assert table.find(asked).tolist() == [*range(2990, 3000)] + [-1] * 6000
    assert "_row_of" in vars(table) and "_row_of" not in vars(IdTable(["a"]))
    few = IdTable(["a", "b"])
    assert few.find(["b", "c"]).tolist() == [1, -1] and "_row_of" not in vars(few)


def test_rows_outside_are_errors_not_the_last_id() -> None:
    table = IdTable(["a", "b"])
    for row in (-1, 2):
        with pytest.raises(IndexError):
            table[row]
        with pytest.raises(IndexError):
            table.take([row])


def test_ids_are_unique() -> None:
    with pytest.raises(ValueError, match="not unique"):
        IdTable(["a", "b", "a"])


@pytest.mark.parametrize("part", ["blob", "offsets", "sums", "rows"])
@pytest.mark.parametrize("keep", [0, 10, 127, 128, 140, -1])
def test_a_truncated_table_is_named(tmp_path: Path, part: str, keep: int) -> None:
    IdTable([f"user-{at}" for at in range(50)]).save(tmp_path / "ids")
    path = tmp_path / f"ids.{part}.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=f"ids.{part}.npy"):
        IdTable.load(tmp_path / "ids")


def test_parts_of_two_tables_are_refused(tmp_path: Path) -> None:
    IdTable(["a", "b"]).save(tmp_path / "ids")
    IdTable(["a", "bc"]).save(tmp_path / "other")
    (tmp_path / "other.blob.npy").rename(tmp_path / "ids.blob.npy")
    with pytest.raises(BundleError, match="disagree"):
        IdTable.load(tmp_path / "ids")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ids\.blob\.npy is missing"):
        IdTable.load(tmp_path / "ids")
