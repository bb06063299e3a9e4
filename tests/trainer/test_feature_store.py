"""User-domain vectors against their formula, and rows in a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import tables_world as world
import torch

from contracts.errors import WorkFailed
from contracts.keys import user_row_meta
from contracts.user_row import UserRow
from trainer import feature_store as store
from trainer.dfei import DFEI, DFEIConfig
from trainer.tables import DAY_MS, Tables

CONFIG = DFEIConfig(dim=4, hidden=(8, 6), dropout=(0.0, 0.0), kappa=3.0)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def ranker(tables: Tables) -> DFEI:
    torch.manual_seed(0)
    return DFEI(tables.schema, CONFIG).eval()


@pytest.mark.parametrize(("window_days", "decay", "back_ms"), [(30.0, 0.5, 0), (1.5, 1.0, 0), (30.0, 0.9, DAY_MS)])
def test_vectors_are_decayed_means_over_the_window(
    tables: Tables, ranker: DFEI, window_days: float, decay: float, back_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SCORE_ROWS", 97)
    splits = ("train", "valid")
    through = store.last_time(tables, splits) - back_ms
    counts, vectors = store.encode_user_domains(ranker, tables, splits, through if back_ms else None, window_days, decay)
    totals: dict[tuple[int, int], list[tuple[float, np.ndarray]]] = {}
    for split in splits:
        batch = tables.batch(split, np.arange(tables.split_size(split)))
        encoded = ranker.encode(batch.inputs).detach().numpy()
        for row in range(len(batch.label)):
            age = (through - int(batch.time[row])) / DAY_MS
            if 0 <= age <= window_days:
                key = int(batch.user_row[row]), int(batch.inputs.domain[row])
                totals.setdefault(key, []).append((decay**age, encoded[row]))
    assert counts.shape == (len(tables.users), 3) and vectors.shape == (len(tables.users), 3, 6)
    assert {(int(u), int(d)) for u, d in np.argwhere(counts > 0)} == set(totals)
    for (user, domain), parts in totals.items():
        weight = sum(one for one, _ in parts)
        assert counts[user, domain] == pytest.approx(weight, rel=1e-5)
        assert vectors[user, domain] == pytest.approx(sum(one * u for one, u in parts) / weight, abs=1e-5)
    assert (vectors[counts == 0] == 0).all()


def test_clicked_only_counts_clicks(tables: Tables) -> None:
    torch.manual_seed(0)
    model = DFEI(tables.schema, DFEIConfig(dim=4, hidden=(8, 6), dropout=(0.0, 0.0), clicked_only=True))
    counts, _ = store.encode_user_domains(model, tables, ["train"], decay=1.0)
    assert counts.sum() == (tables.column("train", "label") > 0).sum()


def test_a_ranker_without_vectors_has_rows_of_width_zero(tables: Tables) -> None:
    counts, vectors = store.encode_user_domains(None, tables, ["train"])
    assert counts.shape == (len(tables.users), 3) and vectors.shape == (len(tables.users), 3, 0) and not counts.any()
    _, row = next(store.user_rows(tables, counts, vectors))
    assert row.vectors.shape == (3, 0)


def test_logged_rows_are_served_the_blend_and_strangers_the_prior(tables: Tables, ranker: DFEI) -> None:
    counts, vectors = store.encode_user_domains(ranker, tables, ["train"])
    counts[0] = 0.0
    batch = tables.batch("test", np.arange(tables.split_size("test")))
    served = store.StoredVectors(ranker, counts, vectors)(batch).user_vectors
    assert served is not None
    prior = store.domain_vectors(ranker)
    for row, user in enumerate(batch.user_row.tolist()):
        n = counts[user][:, None]
        assert served[row].numpy() == pytest.approx((n * vectors[user] + 3.0 * prior) / (n + 3.0), abs=1e-6)
        if user == 0:
            assert served[row].numpy() == pytest.approx(prior)


def test_rows_are_the_blocks_of_the_tables_under_their_ids(tables: Tables, ranker: DFEI) -> None:
    counts, vectors = store.encode_user_domains(ranker, tables, ["train"])
    rows = dict(store.user_rows(tables, counts, vectors))
    assert list(rows) == list(tables.users)
    for number, row in enumerate(rows.values()):
        for domain in range(3):
            codes, dense = tables.at("test").user_block(np.array([number]), domain)
            assert (row.block(domain)[0] == codes).all() and (row.block(domain)[1] == dense).all()
        assert row.day == store.last_time(tables, ["test"]) // DAY_MS


def test_rows_to_serve_hold_the_whole_history(tmp_path: Path) -> None:
    clicks = world.positives_only(tmp_path)
    late = clicks.at("test")
    for number, (_, row) in enumerate(store.user_rows(clicks, *store.encode_user_domains(None, clicks, ["train"]))):
        assert (row.codes == late.user_sides(np.array([number]))[0][0]).all()


def test_a_namespace_is_written_whole_and_twice_is_once(
    tables: Tables, ranker: DFEI, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHUNK_USERS", 7)
    counts, vectors = store.encode_user_domains(ranker, tables, ["train"])
    meta = store.namespace_meta(tables, ranker, "b1", 7)
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(2):
            assert store.write_namespace(client, "n1", store.user_rows(tables, counts, vectors), meta) == len(tables.users)
            assert client.dbsize() == len(tables.users) + 1
        assert store.read_meta(client, "n1") == meta == {
            "bundle_id": "b1", "day": 7, "dimension": 6, "domains": list(world.DOMAINS), "kappa": 3.0, "users": len(tables.users),
        }  # fmt: skip
        for user_id, row in store.user_rows(tables, counts, vectors):
            found = store.read_row(client, "n1", user_id)
            assert found is not None and found.pack() == row.pack()
        assert store.read_row(client, "n1", "nobody") is None and store.read_meta(client, "n2") is None


def test_without_its_end_a_namespace_has_no_meta(tables: Tables, redis_url: str, tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[str, UserRow]]:
        yield from list(store.user_rows(tables, *store.encode_user_domains(None, tables, ["train"])))[:5]
        raise redis.ConnectionError("gone")

    with redis.Redis.from_url(redis_url) as client:
        with pytest.raises(WorkFailed, match=r"namespace 'n1'.*gone"):
            store.write_namespace(client, "n1", breaking(), {})
        assert client.get(user_row_meta("n1")) is None
