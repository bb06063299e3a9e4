"""One user as one Redis value: bytes that every release must read, and the formula that needs no branch."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.user_row import UserRow, blend

# Written by hand from the layout in contracts/user_row.py. If this test fails, every stored row has become unreadable:
# change the magic, do not change the bytes.
GOLDEN = b"".join(
    [
        b"MDU1", struct.pack("<8HI", 3, 2, 2, 3, 1, 1, 2, 1, 20_000),  # D 3, K 2, kept 2, Iu 3, Nu 1, Id 1, Nd 2, float16, day
        struct.pack("<2H", 0, 2),  # domains with history
        struct.pack("<2f", 1.5, 4.0),  # their counts
        bytes.fromhex("003c 00c0 0038 0000"),  # their vectors: 1, -2, .5, 0 in float16
        struct.pack("<3i", 7, 0, -1), struct.pack("<3i", 10, 11, 12),  # codes of the user, then one a domain
        struct.pack("<1f", 0.25), struct.pack("<6f", 1, 2, 3, 4, 5, 6),  # dense of the user, then two a domain
    ]
)  # fmt: skip


def golden_row() -> UserRow:
    return UserRow(
        day=20_000,
        counts=np.array([1.5, 0, 4], np.float32),
        vectors=np.array([[1, -2], [9, 9], [0.5, 0]], np.float32),
        codes=np.array([7, 0, -1], np.int32),
        dense=np.array([0.25], np.float32),
        domain_codes=np.array([[10], [11], [12]], np.int32),
        domain_dense=np.array([[1, 2], [3, 4], [5, 6]], np.float32),
    )


def test_golden_bytes() -> None:
    assert golden_row().pack().hex(" ", 4) == GOLDEN.hex(" ", 4)


def test_golden_bytes_are_read() -> None:
    row = UserRow.unpack(GOLDEN)
    expected = golden_row()
    expected.vectors[1] = 0.0  # no history there: what the vector was is not kept
    assert row.day == 20_000
    for name in ("counts", "vectors", "codes", "dense", "domain_codes", "domain_dense"):
        mine, theirs = getattr(row, name), getattr(expected, name)
        assert (mine.tolist(), mine.dtype) == (theirs.tolist(), theirs.dtype), name


@st.composite
def rows(draw: st.DrawFn) -> UserRow:
    domains, width = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    sizes = [draw(st.integers(0, 5)) for _ in range(4)]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = random.integers(0, 4, domains) * random.random(domains)
    return UserRow(
        day=draw(st.integers(0, 2**32 - 1)),
        counts=counts.astype(np.float32),
        vectors=random.standard_normal((domains, width)).astype(np.float16).astype(np.float32),
        codes=random.integers(-(2**31), 2**31, sizes[0]).astype(np.int32),
        dense=random.standard_normal(sizes[1]).astype(np.float32),
        domain_codes=random.integers(-(2**31), 2**31, (domains, sizes[2])).astype(np.int32),
        domain_dense=random.standard_normal((domains, sizes[3])).astype(np.float32),
    )


@settings(deadline=None)
@given(row=rows())
def test_round_trip(row: UserRow) -> None:
    back = UserRow.unpack(row.pack())
    assert back.day == row.day
    for name in ("counts", "codes", "dense", "domain_codes", "domain_dense"):
        mine, theirs = getattr(row, name), getattr(back, name)
        assert (mine.tobytes(), mine.shape, mine.dtype) == (theirs.tobytes(), theirs.shape, theirs.dtype), name
    assert back.vectors.tolist() == np.where(row.counts[:, None] > 0, row.vectors, 0).tolist()
    assert back.pack() == row.pack()


@settings(deadline=None)
@given(row=rows(), keep=st.floats(0, 1, exclude_max=True), more=st.binary(min_size=1, max_size=9))
def test_cut_or_lengthened_bytes_are_refused(row: UserRow, keep: float, more: bytes) -> None:
    data = row.pack()
    for wrong in (data[: int(keep * len(data))], data + more):
        with pytest.raises(ValueError, match="user row"):
            UserRow.unpack(wrong)


@settings(deadline=None)
@given(data=st.binary(max_size=80))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    for wrong in (data, b"MDU1" + data):
        try:
            UserRow.unpack(wrong)
        except ValueError:
            continue
        assert wrong.startswith(b"MDU1"), "only bytes that keep to the layout may pass"


@pytest.mark.parametrize(("at", "value"), [(0, b"X"), (18, b"\x02"), (26, b"\x03")])
def test_wrong_magic_dtype_and_domain_are_refused(at: int, value: bytes) -> None:
    with pytest.raises(ValueError, match="user row"):
        UserRow.unpack(GOLDEN[:at] + value + GOLDEN[at + 1 :])


def test_vectors_beyond_float16_stay_finite() -> None:
    row = golden_row()
    row.vectors[0] = [1e30, -np.inf]
    with np.errstate(all="raise"):
        assert UserRow.unpack(row.pack()).vectors[0].tolist() == [65504.0, -65504.0]


def test_a_block_is_the_users_columns_then_the_domains() -> None:
    codes, dense = golden_row().block(2)
    assert (codes.tolist(), codes.dtype) == ([[7, 0, -1, 12]], np.int32)
    assert (dense.tolist(), dense.dtype) == ([[0.25, 5.0, 6.0]], np.float32)


def test_folding_impressions_in_is_their_mean() -> None:
    row, seen = golden_row(), [np.array([at, at * at], np.float32) for at in range(1, 6)]
    untouched = row.pack()
    folded = row
    for at, vector in enumerate(seen):
        folded = folded.folded(1, vector, day=19_998 + at)
    np.testing.assert_allclose(folded.vectors[1], np.mean(seen, axis=0), rtol=1e-6)
    assert folded.counts.tolist() == [1.5, 5.0, 4.0] and folded.day == 20_002
    assert folded.vectors[[0, 2]].tolist() == row.vectors[[0, 2]].tolist()
    assert row.pack() == untouched, "the row it started from is unchanged"
    decayed = row.folded(0, np.array([6.0, 3.0], np.float32), day=1)
    np.testing.assert_allclose(decayed.vectors[0], [(1.5 * 1 + 6) / 2.5, (1.5 * -2 + 3) / 2.5])
    assert decayed.day == 20_000


def test_blend_by_hand() -> None:
    m, v = np.array([[1.0, 2.0], [5.0, 5.0]], np.float32), np.array([[3.0, 4.0], [7.0, 8.0]], np.float32)
    found = blend(m, np.array([6.0, 0.0], np.float32), v, kappa=2.0)
    np.testing.assert_allclose(found, [[(6 * 1 + 2 * 3) / 8, (6 * 2 + 2 * 4) / 8], [7.0, 8.0]])
    assert found.dtype == np.float32


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), batch=st.integers(1, 4), kappa=st.floats(0.1, 1e3))
def test_blend_keeps_to_its_formula(seed: int, batch: int, kappa: float) -> None:
    random = np.random.default_rng(seed)
    m: Any = random.standard_normal((batch, 3, 4)).astype(np.float32)
    v: Any = random.standard_normal((3, 4)).astype(np.float32)
    n: Any = random.integers(0, 50, (batch, 3)).astype(np.float32)
    found = blend(m, n, v, kappa)
    for at in range(batch):
        assert blend(m[at], n[at], v, kappa).tobytes() == found[at].tobytes(), "a batch is its rows"
    assert (found <= np.maximum(m, v) + 1e-5).all() and (found >= np.minimum(m, v) - 1e-5).all(), "between both"
    np.testing.assert_allclose(blend(m, 0 * n, v, kappa), np.broadcast_to(v, m.shape), rtol=1e-6)
    np.testing.assert_allclose(blend(m, n + 1e9, v, kappa), m, rtol=1e-4, atol=1e-5)
