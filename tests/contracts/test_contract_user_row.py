"""One user as one Redis value: bytes that every release must read, and the formula that needs no branch."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.user_row import UserRow, blend


def without_zeros(body: bytes) -> bytes:
    marks = sum(1 << at for at, byte in enumerate(body) if byte)
    return marks.to_bytes((len(body) + 7) // 8, "little") + bytes(byte for byte in body if byte)


# Written by hand from the layout in contracts/user_row.py. If this test fails, every stored row has become unreadable:
# change the magic, do not change the bytes.
GOLDEN = b"".join(
    [
        b"MDU2", struct.pack("<6HI", 3, 2, 3, 1, 1, 2, 20_000),  # D 3, K 2, Iu 3, Nu 1, Id 1, Nd 2, day
        bytes([0b001, 0b100]),  # the night wrote domain 0, domain 2 was folded into
        without_zeros(b"".join([
            struct.pack("<3i", 7, 0, -1), struct.pack("<3i", 10, 11, 12),  # codes of the user, then one a domain
            struct.pack("<1f", 0.25), struct.pack("<6f", 1, 2, 3, 4, 5, 6),  # dense of the user, then two a domain
            struct.pack("<f", 4000.25), struct.pack("<2f", 0.1, 0),  # domain 2: its count and vector
            bytes.fromhex("003e 0038 7f ec"),  # domain 0: its count, 1.5; its scale, 1/2; its vector, 127 and -20 halves
        ])),
    ]
)  # fmt: skip
FORMER = b"MDU1" + struct.pack("<8HI", 1, 2, 1, 1, 0, 0, 0, 1, 20_000) + struct.pack("<2Hf2ei", 0, 0, 1.5, 1, -2, 7)


def golden_row() -> UserRow:
    return UserRow(
        day=20_000,
        counts=np.array([1.5, 0, 4000.25], np.float32),
        vectors=np.array([[63.5, -10], [9, 9], [0.1, 0]], np.float32),
        codes=np.array([7, 0, -1], np.int32),
        dense=np.array([0.25], np.float32),
        domain_codes=np.array([[10], [11], [12]], np.int32),
        domain_dense=np.array([[1, 2], [3, 4], [5, 6]], np.float32),
        live=frozenset({2}),
    )


def test_golden_bytes() -> None:
    assert golden_row().pack().hex(" ", 4) == GOLDEN.hex(" ", 4)


def test_golden_bytes_are_read() -> None:
    row = UserRow.unpack(GOLDEN)
    expected = golden_row()
    expected.vectors[1] = 0.0  # no history there: what the vector was is not kept
    assert (row.day, row.live) == (20_000, {2})
    for name in ("counts", "vectors", "codes", "dense", "domain_codes", "domain_dense"):
        mine, theirs = getattr(row, name), getattr(expected, name)
        assert (mine.tolist(), mine.dtype) == (theirs.tolist(), theirs.dtype), name


@st.composite
def rows(draw: st.DrawFn) -> UserRow:
    domains, width = draw(st.integers(0, 17)), draw(st.integers(0, 5))
    sizes = [draw(st.integers(0, 5)) for _ in range(4)]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = random.integers(0, 4, domains) * random.random(domains) * 10.0 ** draw(st.integers(-9, 6))
    vectors = random.standard_normal((domains, width)) * 10.0 ** draw(st.integers(-9, 4))
    live = frozenset(np.flatnonzero((random.random(domains) < 0.3) & (counts > 1e-3)).tolist())
    return UserRow(
        day=draw(st.integers(0, 2**32 - 1)),
        counts=counts.astype(np.float32),
        vectors=np.where(random.random(vectors.shape) < 0.5, vectors, 0).astype(np.float32),
        codes=random.integers(-(2**31), 2**31, sizes[0]).astype(np.int32),
        dense=random.standard_normal(sizes[1]).astype(np.float32),
        domain_codes=random.integers(-1, 300, (domains, sizes[2])).astype(np.int32),
        domain_dense=random.integers(-1, 2, (domains, sizes[3])).astype(np.float32),
        live=live,
    )


@settings(deadline=None)
@given(row=rows())
def test_round_trip(row: UserRow) -> None:
    """Features and folded domains to the bit; of the night's, vectors within half a scale and counts within float16."""
    data = row.pack()
    back = UserRow.unpack(data)
    assert (back.day, back.live) == (row.day, row.live)
    for name in ("codes", "dense", "domain_codes", "domain_dense"):
        mine, theirs = getattr(row, name), getattr(back, name)
        assert (mine.tobytes(), mine.shape, mine.dtype) == (theirs.tobytes(), theirs.shape, theirs.dtype), name
    for domain, n in enumerate(row.counts):
        if domain in row.live:
            assert back.counts[domain] == n and back.vectors[domain].tolist() == row.vectors[domain].tolist()
        elif n < 2.0**-24:
            assert back.counts[domain] == 0 and not back.vectors[domain].any()
        else:
            assert back.counts[domain] == pytest.approx(min(n, 65504.0), rel=2.0**-11, abs=2.0**-25)
            scale = max(np.abs(row.vectors[domain]).max(initial=0) / 127, 2.0**-14)
            assert (np.abs(back.vectors[domain] - row.vectors[domain]) <= scale / 2 * 1.001).all()
    assert back.pack() == data


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
    for wrong in (data, b"MDU2" + data):
        try:
            UserRow.unpack(wrong)
        except ValueError:
            continue
        assert wrong.startswith(b"MDU2"), "only bytes that keep to the layout may pass"


@pytest.mark.parametrize(("at", "value"), [(0, b"X"), (20, b"\x09"), (21, b"\x05"), (22, b"\x00")])
def test_wrong_magic_domains_and_marks_are_refused(at: int, value: bytes) -> None:
    with pytest.raises(ValueError, match="user row"):
        UserRow.unpack(GOLDEN[:at] + value + GOLDEN[at + 1 :])


@pytest.mark.parametrize(
    "rest",
    [
        b"",  # the domains are missing
        b"\x00",
        bytes([1, 1]) + without_zeros(struct.pack("<f", 2.0) + bytes.fromhex("003e 0038")),  # one stands in both kinds
    ],
)
def test_a_row_of_one_domain_and_nothing_else_says_of_which_kind_it_is(rest: bytes) -> None:
    header = b"MDU2" + struct.pack("<6HI", 1, 0, 0, 0, 0, 0, 0)
    assert UserRow.unpack(header + bytes([1, 0]) + without_zeros(bytes.fromhex("003e 0038"))).counts.tolist() == [1.5]
    with pytest.raises(ValueError, match="user row"):
        UserRow.unpack(header + rest)


def test_sizes_that_no_bytes_follow_are_refused_before_room_is_made() -> None:
    with pytest.raises(ValueError, match="user row"):
        UserRow.unpack(b"MDU2" + struct.pack("<6HI", 8, 65535, 65535, 65535, 65535, 65535, 0) + b"\xff\x00")


def test_the_former_format_is_refused() -> None:
    with pytest.raises(ValueError, match="not a user row"):
        UserRow.unpack(FORMER)


def test_vectors_without_bound_stay_finite() -> None:
    row = golden_row()
    row.vectors[0], row.vectors[2] = [1e30, -np.inf], [np.inf, 1]
    with np.errstate(all="raise"):
        vectors = UserRow.unpack(row.pack()).vectors
    assert vectors[0] == pytest.approx([65504.0, -65504.0], rel=1e-3)
    assert vectors[2].tolist() == [65504.0, 1.0]


def test_a_users_row_takes_few_bytes() -> None:
    """Two of six domains kept, vectors of rectified units, 20 features, a history of 50 ads that is not there yet."""
    random = np.random.default_rng(0)
    counts = np.array([3.7, 0, 0, 21.5, 0, 0], np.float32)
    vectors = random.standard_normal((6, 32)).clip(0).astype(np.float32)
    codes = np.concatenate([random.integers(2, 250, 20), np.zeros(50)]).astype(np.int32)
    row = UserRow(
        20_784, counts, vectors, codes, np.zeros(0, np.float32), np.zeros((6, 0), np.int32), np.zeros((6, 0), np.float32)
    )
    assert len(row.pack()) < 22 + 20 + 45 + 2 * (4 + 32)  # header, codes, bits, domains


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
    assert folded.counts.tolist() == [1.5, 5.0, 4000.25] and folded.day == 20_002
    assert folded.vectors[[0, 2]].tolist() == row.vectors[[0, 2]].tolist()
    assert row.pack() == untouched, "the row it started from is unchanged"
    decayed = row.folded(0, np.array([6.0, 3.0], np.float32), day=1)
    np.testing.assert_allclose(decayed.vectors[0], [(1.5 * 63.5 + 6) / 2.5, (1.5 * -10 + 3) / 2.5])
    assert decayed.day == 20_000


@pytest.mark.parametrize("before", [0, 20, 3000])
def test_a_thousand_folds_are_the_mean_and_only_float32_would_do(before: int) -> None:
    """A user's taste turns: what is stored between folds must neither stall nor wander, however many impressions came before."""
    random = np.random.default_rng(before)
    counts, start = np.array([before, 7.3], np.float32), random.standard_normal((2, 32)).clip(0).astype(np.float32)
    none: Any = np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32)
    row = UserRow.unpack(UserRow(1, counts, start, *none).pack())
    untouched, exact, total = row.vectors[1].tolist(), row.vectors[0].astype(np.float64), float(before)
    as_int8, as_float16 = row, row.vectors[0]
    for _ in range(1000):
        seen = (random.standard_normal(32) + 0.3).clip(0).astype(np.float32)
        as_float16 = ((total * as_float16 + seen) / (total + 1)).astype(np.float16).astype(np.float32)
        row = UserRow.unpack(row.folded(0, seen, 1).pack())
        moved = as_int8.folded(0, seen, 1)
        as_int8 = UserRow.unpack(replace(moved, counts=np.array([total + 1, 7.3], np.float32), live=frozenset()).pack())
        exact, total = (total * exact + seen) / (total + 1), total + 1
    scale = np.abs(exact).max() / 127
    assert row.counts.tolist() == [total, np.float16(7.3)] and row.vectors[1].tolist() == untouched
    assert np.abs(row.vectors[0] - exact).max() < scale / 1000
    assert np.abs(as_int8.vectors[0] - exact).max() > 10 * scale
    assert np.abs(as_float16 - exact).max() > 2 * scale


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
