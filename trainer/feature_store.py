"""The feature store: each user's DFEI vectors, re-encoded by the model that is about to be served, and encoded features.

A retrained encoder turns its output space, so vectors of another bundle are never carried over: u_d(x) of every impression of
the last W days is computed anew and averaged with weights decay^age (age in days before the last event).

    n_ud = sum of weights,  m_ud = weighted mean;  served: (n_ud m_ud + kappa v_d) / (n_ud + kappa)

Rows go to Redis in pipelines; `_meta` is written last, so a namespace with it is complete. Writing twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import redis
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.errors import WorkFailed
from contracts.keys import user_row, user_row_meta
from contracts.user_row import UserRow, blend
from trainer.layers import Inputs, Ranker
from trainer.scoring import SCORE_ROWS, device_of
from trainer.tables import DAY_MS, Batch, Tables

WINDOW_DAYS = 30
DECAY = 0.95
_CHUNK_USERS = 1_000
F32 = NDArray[np.float32]


@torch.no_grad()
def encode_user_domains(
    ranker: Ranker | None,
    tables: Tables,
    splits: Sequence[str],
    through: int | None = None,
    window_days: float = WINDOW_DAYS,
    decay: float = DECAY,
) -> tuple[F32, F32]:
    """counts: (U, D), vectors: (U, D, K) float32, over the impressions of `splits` up to `through` (epoch ms, by default the
    last event). Without timestamps every impression has weight 1. K = 0 for a ranker without user vectors.

    Memory: one vector a user and domain, whatever the length of the log.
    """
    users, domains = len(tables.users), len(tables.domains)
    counts = np.zeros(users * domains, dtype=np.float32)
    if ranker is None or ranker.user_vectors is None:
        return counts.reshape(users, domains), np.zeros((users, domains, 0), dtype=np.float32)
    ranker.eval()
    where = device_of(ranker)
    clicked_only = _clicked_only(ranker)
    totals = np.zeros((users * domains, ranker.user_vectors.dimension), dtype=np.float32)
    last = through if through is not None else last_time(tables, splits)
    for split in splits:
        for start in range(0, tables.split_size(split), SCORE_ROWS):
            rows = np.arange(start, min(start + SCORE_ROWS, tables.split_size(split)))
            if tables.has_time:
                age_ms = last - np.asarray(tables.column(split, "time")[rows])
                rows = rows[(age_ms >= 0) & (age_ms <= window_days * DAY_MS)]
            if clicked_only:
                rows = rows[tables.column(split, "label")[rows] > 0]
            if len(rows) == 0:
                continue
            batch = tables.batch(split, rows).to(where)
            age_days = (last - batch.time.cpu().numpy()) / DAY_MS if tables.has_time else np.zeros(len(rows))
            weight = (decay**age_days).astype(np.float32)
            encoded = ranker.encode(batch.inputs).cpu().numpy()  # type: ignore[operator]
            at = batch.user_row.cpu().numpy() * domains + batch.inputs.domain.cpu().numpy()
            np.add.at(counts, at, weight)
            np.add.at(totals, at, encoded * weight[:, None])
    known = counts > 0
    totals[known] /= counts[known, None]
    return counts.reshape(users, domains), totals.reshape(users, domains, -1)


def last_time(tables: Tables, splits: Sequence[str]) -> int:
    """Epoch ms of the last event of the splits; 0 when there is none."""
    return max((int(tables.column(one, "time").max()) for one in splits if tables.split_size(one)), default=0)


def stored_vectors(ranker: Ranker, tables: Tables, splits: Sequence[str]) -> StoredVectors | None:
    """Of the impressions of `splits`; None for a ranker that reads none."""
    return StoredVectors(ranker, *encode_user_domains(ranker, tables, splits)) if ranker.user_vectors is not None else None


class StoredVectors:
    """What a server would read for logged rows: blend(m_ud, n_ud, v_d, kappa) of each row's user."""

    def __init__(self, ranker: Ranker, counts: F32, vectors: F32) -> None:
        if ranker.user_vectors is None:
            raise ValueError(f"{type(ranker).__name__} reads no user vectors")
        self._counts, self._vectors, self._kappa = counts, vectors, ranker.user_vectors.kappa
        self._prior = domain_vectors(ranker)

    def __call__(self, batch: Batch) -> Inputs:
        rows = batch.user_row.cpu().numpy()
        blended = blend(self._vectors[rows], self._counts[rows], self._prior, self._kappa)
        return batch.inputs._replace(user_vectors=torch.from_numpy(blended).to(batch.label.device))


def domain_vectors(ranker: Ranker) -> F32:
    """v_d, (D, K) float32: what a stranger is served."""
    vectors: Tensor = ranker.domain_vectors  # type: ignore[assignment]
    return np.asarray(vectors.detach().cpu().numpy(), dtype=np.float32)


def user_rows(tables: Tables, counts: F32, vectors: F32, day: int | None = None) -> Iterator[tuple[str, UserRow]]:
    """(user_id, row) of every user in the order of the tables, histories through the last event. day: days since 1970, by
    default that of the last event."""
    tables = tables.at("test")
    if day is None:
        day = last_time(tables, ("train", "valid", "test")) // DAY_MS
    for start in range(0, len(tables.users), _CHUNK_USERS):
        rows = np.arange(start, min(start + _CHUNK_USERS, len(tables.users)))
        codes, dense, domain_codes, domain_dense = tables.user_sides(rows)
        for at, row in enumerate(rows):
            features = (codes[at], dense[at], domain_codes[at], domain_dense[at])
            yield tables.users[int(row)], UserRow(day, counts[row], vectors[row], *features)


def namespace_meta(tables: Tables, ranker: Ranker | None, bundle_id: str, day: int) -> dict[str, Any]:
    """What `_meta` says."""
    vectors = ranker.user_vectors if ranker is not None else None
    return {
        "bundle_id": bundle_id,
        "domains": list(tables.domains),
        "dimension": vectors.dimension if vectors else 0,
        "kappa": vectors.kappa if vectors else 0.0,
        "users": len(tables.users),
        "day": day,
    }


def write_namespace(client: redis.Redis, namespace: str, rows: Iterable[tuple[str, UserRow]], meta: dict[str, Any]) -> int:
    """Write every row, then `_meta`; returns the number of rows. Single-key commands only, so a cluster takes them too. Raises
    WorkFailed when Redis does not take it all; written again, it is completed."""
    written = 0
    remaining = iter(rows)
    try:
        while chunk := list(islice(remaining, _CHUNK_USERS)):
            pipeline = client.pipeline(transaction=False)
            for user_id, row in chunk:
                pipeline.set(user_row(namespace, user_id), row.pack())
            pipeline.execute()
            written += len(chunk)
        client.set(user_row_meta(namespace), json.dumps(meta, sort_keys=True))
    except redis.RedisError as error:
        message = f"Redis took {written} rows of namespace {namespace!r}, then failed: {error}"
        raise WorkFailed(message, "see that Redis is up and has memory, and run again") from error
    return written


def read_row(client: redis.Redis, namespace: str, user_id: str) -> UserRow | None:
    data = client.get(user_row(namespace, user_id))
    return UserRow.unpack(data) if isinstance(data, bytes) else None


def read_meta(client: redis.Redis, namespace: str) -> dict[str, Any] | None:
    """None: the namespace is not there, or was not finished."""
    data = client.get(user_row_meta(namespace))
    return dict(json.loads(data)) if isinstance(data, bytes) else None


def _clicked_only(ranker: Ranker) -> bool:
    """Ablation: only clicked impressions enter the averages, as in training."""
    config = getattr(getattr(ranker, "features", None), "config", None)
    return bool(getattr(config, "clicked_only", False))
