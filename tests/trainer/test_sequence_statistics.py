"""What declared sequences tell: lengths and entries as counted by hand, shares against the widest, and nothing of strangers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tables_world import SPEC, build, frames

from contracts.schema import FIRST, PAD, FeatureSpec, ModelField
from trainer.sequence_statistics import STRENGTH, of_ads, of_users, sequence_specs

SEQUENCES = [FeatureSpec(name=name, side="user", kind="sequence", of="ad_id", max_length=4) for name in ("watched", "liked")]
FIELDS = [
    ModelField(name=one.name, side="user", kind="sequence", matrix="codes", start=4 * at, width=4, table="ad_id", cardinality=9)
    for at, one in enumerate(SEQUENCES)
]
A, B, C = FIRST, FIRST + 1, FIRST + 2
CODES = np.array(
    [[A, A, B, C, A, PAD, PAD, PAD], [B, C, 1, PAD, PAD, PAD, PAD, PAD], [PAD] * 8],
    dtype=np.int32,
)


def share(narrow: float, wide: float, of_all: float) -> float:
    return float(np.log((narrow + STRENGTH * of_all) / (wide + STRENGTH)) - np.log(of_all))


def test_of_users() -> None:
    found = of_users(CODES, FIELDS)
    assert found[0] == pytest.approx([np.log(5), np.log(2), 0.0, share(1, 4, 1 / 6)], abs=1e-6)
    assert found[1] == pytest.approx([np.log(3), 0.0, 0.0, share(0, 2, 1 / 6)], abs=1e-6)
    assert np.isnan(found[2]).all()


def test_of_ads() -> None:
    found = of_ads(CODES, FIELDS, np.array([A, B, 1, FIRST + 5], dtype=np.int32))
    assert found[0] == pytest.approx([np.log(3), np.log(2), 0.0, share(1, 2, 1 / 4)], abs=1e-6)
    assert found[1] == pytest.approx([np.log(3), 0.0, 0.0, share(0, 2, 1 / 4)], abs=1e-6)
    assert np.isnan(found[2:]).all()


def test_one_sequence_has_no_share_and_none_has_nothing() -> None:
    assert [one.name for one in sequence_specs(SEQUENCES[:1])] == ["watched length", "ad in watched length"]
    assert len(sequence_specs(SEQUENCES)) == 8 and not sequence_specs([])


def test_tables_hold_them_on_every_row_and_at_the_end(tmp_path: Path) -> None:
    tables = build(tmp_path, frames(), features=SPEC["features"])
    names = [one.name for one in sequence_specs(tables.schema.features)]
    assert names and set(names) <= set(tables.schema.statistics)
    batch = tables.batch("train", np.arange(tables.split_size("train")))
    for block, row in (("user", batch.user_row), ("ad", batch.ad_row)):
        fields = [one for one in tables.schema.block(block).fields if one.name in names]  # type: ignore[arg-type]
        served = (tables.user_block if block == "user" else tables.ad_block)(row.numpy(), batch.inputs.domain.numpy())[0]
        for one in fields:
            found = batch.inputs.block(block)[0][:, one.start].numpy()  # type: ignore[arg-type]
            assert (found == served[:, one.start]).all() and len(np.unique(found)) > 2
