"""The single encode: codes, bins, scales, sequences, blocks; frozen, saved and loaded without a changed bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.errors import BadInput, BundleError
from contracts.ids import IdTable
from contracts.schema import FIRST, PAD, UNKNOWN, FeatureSchema, FeatureSpec, Numeric, canonical

FEATURES = (
    FeatureSpec(name="user_id", side="user", kind="categorical"),
    FeatureSpec(name="city", side="user", kind="categorical"),
    FeatureSpec(name="age", side="user", kind="numeric"),
    FeatureSpec(name="income", side="user", kind="numeric", encoding="standardise"),
    FeatureSpec(name="seen", side="user", kind="sequence", of="ad_id", max_length=3),
    FeatureSpec(name="visits", side="user_domain", kind="numeric", encoding="standardise"),
    FeatureSpec(name="tier", side="user_domain", kind="categorical"),
    FeatureSpec(name="ad_id", side="ad", kind="categorical"),
    FeatureSpec(name="price", side="ad_domain", kind="numeric"),
    FeatureSpec(name="hour", side="context", kind="categorical"),
)
SCHEMA = FeatureSchema(
    features=FEATURES,
    domains=("feed", "search"),
    vocabularies={
        "user_id": IdTable(["u1", "u2"]),
        "city": IdTable(["5", "true", "Ōsaka"]),
        "ad_id": IdTable(["a0", "a1", "a2", "a3"]),
        "tier": IdTable(["gold"]),
        "hour": IdTable(["20"]),
    },
    numerics={
        "age": Numeric(edges=(18.0, 65.0)),
        "income": Numeric(mean=100.0, deviation=10.0),
        "visits": Numeric(mean=1.0, deviation=2.0),
        "price": Numeric(edges=()),
    },
)


def codes(feature: str, values: list[Any]) -> list[list[int]]:
    """Codes of one user feature's columns."""
    (field,) = (one for one in SCHEMA.block("user").fields if one.name == feature)
    columns: list[list[int]] = SCHEMA.encode("user", {feature: values}, len(values)).codes[:, field.columns].tolist()
    return columns


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        (5, "5"), (5.0, "5"), ("5", "5"), (np.int64(5), "5"), (np.float32(5), "5"), (5.5, "5.5"), ("5.0", "5.0"), (-0.0, "0"),
        (1e22, str(10**22)), (True, "true"), (np.bool_(False), "false"), ("True", "True"), ("", ""), ("nan", "nan"), (None, None),
        (float("nan"), None), (np.float32("nan"), None), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_one_spelling_a_value(value: Any, spelling: str | None) -> None:
    assert canonical(value) == spelling


def test_categorical_codes() -> None:
    values = [5, 5.0, "5", True, "Ōsaka", "osaka", "", None, float("nan")]
    assert codes("city", values) == [[2], [2], [2], [3], [4], [UNKNOWN], [UNKNOWN], [PAD], [PAD]]


def test_bins_rise_and_take_their_edge() -> None:
    values = [-1e30, 17.9, 18, 64, 65.0, float("inf"), "18", None, float("nan")]
    assert codes("age", values) == [[2], [2], [3], [3], [4], [4], [3], [PAD], [PAD]]


def test_standardised_values_are_clipped_and_missing_is_the_mean() -> None:
    encoded = SCHEMA.encode("user", {"income": [100, 110.0, 85, 1e9, float("-inf"), None, float("nan")]}, 7)
    assert encoded.dense.dtype == np.float32
    assert encoded.dense[:, 0].tolist() == [0.0, 1.0, -1.5, 5.0, -5.0, 0.0, 0.0]


def test_sequences_keep_the_latest_and_share_the_ads_codes() -> None:
    values = [["a0"], ["a3", "a2", "a1", "a0"], [], None, ["zz", None, "a1"], np.array(["a1", "a2"])]
    assert codes("seen", values) == [[2, 0, 0], [4, 3, 2], [0, 0, 0], [0, 0, 0], [UNKNOWN, PAD, 3], [3, 4, 0]]


def test_absent_features_are_missing_and_undeclared_ones_ignored() -> None:
    encoded = SCHEMA.encode("user", {"planet": ["mars"] * 2}, 2)
    assert encoded.codes.shape == (2, 6) and not encoded.codes.any()
    assert encoded.dense.shape == (2, 1) and not encoded.dense.any()
    assert SCHEMA.encode("ad_domain", {}, 3).dense.shape == (3, 0)
    assert SCHEMA.encode("user", {}, 0).codes.shape == (0, 6)


def test_misfits_are_named() -> None:
    with pytest.raises(BadInput, match="'age' is numeric"):
        SCHEMA.encode("user", {"age": ["old"]}, 1)
    for value in ([1, 2], [1], {}, "1e", b"\0"):
        with pytest.raises(BadInput, match="'income' is numeric"):
            SCHEMA.encode("user", {"income": [value]}, 1)
    for feature in ("city", "age", "income", "seen"):
        with pytest.raises(BadInput, match=f"'{feature}' has 1 values for 3 rows"):
            SCHEMA.encode("user", {feature: [None]}, 3)


def test_blocks_say_where_each_feature_stands() -> None:
    block = SCHEMA.block("user")
    places = [(one.name, one.matrix, one.start, one.width, one.table, one.cardinality) for one in block.fields]
    assert places == [
        ("user_id", "codes", 0, 1, "user_id", 4),
        ("city", "codes", 1, 1, "city", 5),
        ("age", "codes", 2, 1, "age", 5),
        ("income", "dense", 0, 1, "income", 0),
        ("seen", "codes", 3, 3, "ad_id", 6),
        ("visits", "dense", 1, 1, "visits", 0),
        ("tier", "codes", 6, 1, "tier", 3),
    ]
    assert (block.code_width, block.dense_width) == (7, 2)
    assert [SCHEMA.width(side) for side in ("user", "user_domain", "ad", "ad_domain", "context")] == [
        (6, 1),
        (1, 1),
        (1, 0),
        (1, 0),
        (1, 0),
    ]
    assert SCHEMA.domain_index == {"feed": 0, "search": 1}


VALUES = st.one_of(
    st.none(),
    st.integers(-100, 100),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["u1", "5", "a2", "Ōsaka"]),
    st.booleans(),
)
NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-(2**60), 2**60))
ROW = st.fixed_dictionaries(
    {
        "user_id": VALUES,
        "city": VALUES,
        "age": NUMBERS,
        "income": NUMBERS,
        "seen": st.one_of(st.none(), st.lists(VALUES, max_size=6)),
    }
)


@settings(deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=8))
def test_a_row_alone_equals_the_row_in_a_crowd_and_every_code_has_an_embedding(rows: list[dict[str, Any]]) -> None:
    together = SCHEMA.encode("user", {name: [row[name] for row in rows] for name in rows[0]}, len(rows))
    for at, row in enumerate(rows):
        alone = SCHEMA.encode("user", {name: [value] for name, value in row.items()}, 1)
        assert alone.codes.tobytes() == together.codes[at].tobytes()
        assert alone.dense.tobytes() == together.dense[at].tobytes()
    for field in SCHEMA.block("user").fields:
        if field.matrix == "codes" and field.side == "user":
            column = together.codes[:, field.columns]
            assert column.min() >= 0 and column.max() < field.cardinality
    assert np.isfinite(together.dense).all()


@settings(deadline=None)
@given(value=st.text())
def test_a_text_has_its_own_code_or_none(value: str) -> None:
    vocabulary = list(SCHEMA.vocabularies["city"])
    assert codes("city", [value]) == [[FIRST + vocabulary.index(value) if value in vocabulary else UNKNOWN]]


def test_a_saved_schema_encodes_the_same_bits(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path)
    loaded = FeatureSchema.load(tmp_path)
    assert (loaded.features, loaded.domains, loaded.numerics) == (SCHEMA.features, SCHEMA.domains, SCHEMA.numerics)
    assert loaded.blocks == SCHEMA.blocks
    columns = {"city": ["Ōsaka", 5], "age": [0.1 + 0.2, 64], "income": [1 / 3, None], "seen": [["a1"], []]}
    for mine, theirs in zip(SCHEMA.encode("user", columns, 2), loaded.encode("user", columns, 2), strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_equal_schemas_have_equal_bytes_on_disk(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path / "a")
    FeatureSchema.load(tmp_path / "a").save(tmp_path / "b")
    listed = [{path.relative_to(tmp_path / one): path.read_bytes() for path in (tmp_path / one).rglob("*.*")} for one in "ab"]
    assert listed[0] == listed[1] and len(listed[0]) == 21


def test_a_damaged_schema_is_named(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path)
    (tmp_path / "vocab" / "city.blob.npy").unlink()
    with pytest.raises(BundleError, match=r"city\.blob\.npy"):
        FeatureSchema.load(tmp_path)
    (tmp_path / "schema.json").write_bytes((tmp_path / "schema.json").read_bytes()[:-9])
    with pytest.raises(BundleError, match=r"schema\.json"):
        FeatureSchema.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../x", "side": "user", "kind": "numeric"},
        {"name": "", "side": "user", "kind": "numeric"},
        {"name": "x", "side": "planet", "kind": "numeric"},
        {"name": "x", "side": "user", "kind": "numeric", "of": "ad_id"},
        {"name": "x", "side": "ad", "kind": "sequence"},
        {"name": "x", "side": "user", "kind": "sequence", "max_length": 0},
        {"name": "x", "side": "user", "kind": "numeric", "typo": 1},
    ],
)
def test_a_feature_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FeatureSpec(**wrong)
