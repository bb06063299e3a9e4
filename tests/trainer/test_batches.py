"""The order of training rows: every row once, reproducible, domains in turn; sampled negatives keep the user's side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tables_world as world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.schema import UNKNOWN
from trainer import batches
from trainer.tables import Tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 50), rows=st.integers(0, 400), batch_rows=st.integers(1, 70), seed=st.integers(0, 9))
def test_shuffled_gives_every_row_once_in_even_batches(
    start: int, rows: int, batch_rows: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_BLOCK_ROWS", 16)
    monkeypatch.setattr(batches, "_WINDOW_BLOCKS", 3)
    given_rows = range(start, start + rows)
    found = list(batches.shuffled(given_rows, batch_rows, np.random.default_rng(seed)))
    assert sorted(int(one) for part in found for one in part) == list(given_rows)
    assert len(found) == -(-rows // batch_rows)
    assert all(0 < len(one) <= batch_rows for one in found)
    again = list(batches.shuffled(given_rows, batch_rows, np.random.default_rng(seed)))
    assert [one.tolist() for one in again] == [one.tolist() for one in found]


def test_blocks_are_really_shuffled() -> None:
    order = np.concatenate(list(batches.shuffled(range(1000), 10, np.random.default_rng(0))))
    assert np.corrcoef(order, np.arange(1000))[0, 1] < 0.2


@pytest.mark.parametrize("domain_pure", [False, True])
def test_an_epoch_reads_every_row_once(tables: Tables, domain_pure: bool) -> None:
    found = list(batches.epoch_rows(tables, "train", 32, domain_pure, np.random.default_rng(0)))
    assert sorted(np.concatenate(found)) == list(range(tables.split_size("train")))


def test_domain_pure_batches_take_turns(tables: Tables) -> None:
    found = list(batches.epoch_rows(tables, "train", 16, True, np.random.default_rng(0)))
    domain = tables.column("train", "domain")
    turns = [set(domain[rows].tolist()) for rows in found]
    assert all(len(one) == 1 for one in turns)
    order = [one.pop() for one in turns]
    for number in range(3):  # every domain is met in the first and in the last third: none is left for the end
        at = [place for place, one in enumerate(order) if one == number]
        assert min(at) < len(order) / 3 and max(at) > len(order) * 2 / 3


def test_negatives_are_eligible_ads_for_the_same_user_and_moment(tmp_path: Path) -> None:
    tables = world.positives_only(tmp_path)
    batch = tables.batch("train", np.arange(0, tables.split_size("train"), 3))
    positives, negatives = len(batch.label), 20
    wide = batches.with_negatives(tables, batch, negatives, np.random.default_rng(0))
    assert wide.label.tolist() == [1.0] * positives + [0.0] * positives * negatives
    for name in ("user_codes", "user_dense", "context_codes", "domain"):
        before, after = getattr(batch.inputs, name), getattr(wide.inputs, name)
        assert all((after[at * positives : (at + 1) * positives] == before).all() for at in range(1 + negatives))
    for number in range(len(tables.domains)):
        drawn = wide.ad_row[positives:][wide.inputs.domain[positives:] == number].tolist()
        assert set(drawn) == set(tables.eligible(number).tolist())  # every one, given enough draws, and no other
    codes, _ = tables.ad_block(wide.ad_row.numpy(), wide.inputs.domain.numpy())
    assert (wide.inputs.ad_codes.numpy() == codes).all()


def test_a_share_of_users_and_of_ads_is_taken_for_unknown_and_nothing_else_changes(tables: Tables) -> None:
    batch = tables.batch("train", np.arange(1_000))
    found = batches.with_strangers(tables, batch, 0.4, np.random.default_rng(0))
    for name, key in (("user", "user_id"), ("ad", "ad_id")):
        before, after = batch.inputs.block(name)[0].numpy(), found.inputs.block(name)[0].numpy()  # type: ignore[arg-type]
        column = next(one.start for one in tables.schema.block(name).fields if one.name == key)  # type: ignore[arg-type]
        changed = before != after
        assert changed.any(axis=0).nonzero()[0].tolist() == [column]
        assert 0.35 < changed[:, column].mean() < 0.45
        assert set(after[changed[:, column], column]) == {UNKNOWN}
    assert (found.label == batch.label).all() and (found.user_row == batch.user_row).all()
