"""One user's features as one Redis value: DFEI vectors with counts, encoded features, history. One GET a request.

    header   magic 4s · D u16 · K u16 · kept u16 · Iu u16 · Nu u16 · Id u16 · Nd u16 · dtype u16 · day u32     (24 bytes)
    domains  kept x u16, padded to 4 bytes · counts kept x f32 · vectors kept x K x f16, padded to 4 bytes
    codes    (Iu + D Id) x i32 · dense (Nu + D Nd) x f32

Only domains with history are kept: for the others n = 0, and the blend is the domain's prior whatever m is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

F32 = np.ndarray[Any, np.dtype[np.float32]]
I32 = np.ndarray[Any, np.dtype[np.int32]]

_MAGIC = b"MDU1"
_HEADER = struct.Struct("<4s8HI")
_FLOAT16 = 1
_LARGEST = 65504.0  # float16: beyond it a vector would come back infinite, and every score with it NaN


@dataclass(frozen=True)
class UserRow:
    """vectors: (D, K) float32, m_ud; counts: (D,) float32, n_ud in (decayed) impressions; codes: (Iu,) int32 and
    dense: (Nu,) float32 of side user; domain_codes: (D, Id) and domain_dense: (D, Nd) of side user_domain; day: days
    since 1970 of the last impression folded in."""

    day: int
    counts: F32
    vectors: F32
    codes: I32
    dense: F32
    domain_codes: I32
    domain_dense: F32

    def block(self, domain: int) -> tuple[I32, F32]:
        """The user block a model sees in one domain: codes (1, Iu + Id) int32, dense (1, Nu + Nd) float32."""
        codes = np.concatenate([self.codes, self.domain_codes[domain]])[None, :]
        dense = np.concatenate([self.dense, self.domain_dense[domain]])[None, :]
        return codes, dense

    def folded(self, domain: int, vector: F32, day: int) -> UserRow:
        """One more impression in `domain`, whose encoding is `vector` (K,): n <- n + 1, m <- (n m + u) / (n + 1)."""
        counts, vectors = self.counts.copy(), self.vectors.copy()
        vectors[domain] = (counts[domain] * vectors[domain] + vector) / (counts[domain] + 1.0)
        counts[domain] += 1.0
        return replace(self, counts=counts, vectors=vectors, day=max(day, self.day))

    def pack(self) -> bytes:
        domains, width = self.vectors.shape
        kept = np.flatnonzero(self.counts > 0).astype("<u2")
        sizes = (len(self.codes), len(self.dense), self.domain_codes.shape[1], self.domain_dense.shape[1])
        header = _HEADER.pack(_MAGIC, domains, width, len(kept), *sizes, _FLOAT16, self.day)
        parts = (
            header,
            _padded(kept.tobytes()),
            self.counts[kept].astype("<f4").tobytes(),
            _padded(self.vectors[kept].clip(-_LARGEST, _LARGEST).astype("<f2").tobytes()),
            self.codes.astype("<i4").tobytes(),
            self.domain_codes.astype("<i4").tobytes(),
            self.dense.astype("<f4").tobytes(),
            self.domain_dense.astype("<f4").tobytes(),
        )
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> UserRow:
        """Raises ValueError when the bytes are not a whole user row."""
        if len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise ValueError(f"not a user row: {len(data)} bytes starting {data[:4]!r}")
        _, n_domains, width, n_kept, n_codes, n_dense, n_domain_codes, n_domain_dense, dtype, day = _HEADER.unpack_from(data)
        if dtype != _FLOAT16:
            raise ValueError(f"user row of unknown dtype {dtype}")
        shapes = [
            ("<u2", n_kept),
            ("<f4", n_kept),
            ("<f2", n_kept * width),
            ("<i4", n_codes),
            ("<i4", n_domains * n_domain_codes),
            ("<f4", n_dense),
            ("<f4", n_domains * n_domain_dense),
        ]
        parts, at = [], _HEADER.size
        for code, count in shapes:
            size = np.dtype(code).itemsize * count
            if at + size > len(data):
                raise ValueError(f"user row cut short: {len(data)} bytes")
            parts.append(np.frombuffer(data, dtype=code, count=count, offset=at))
            at += size + (-size % 4)
        if at != len(data):
            raise ValueError(f"user row of {at} bytes has {len(data)}")
        kept, kept_counts, kept_vectors, codes, domain_codes, dense, domain_dense = parts
        if n_kept and int(kept.max()) >= n_domains:
            raise ValueError("user row names a domain beyond its own count")
        counts = np.zeros(n_domains, dtype=np.float32)
        vectors = np.zeros((n_domains, width), dtype=np.float32)
        counts[kept] = kept_counts
        vectors[kept] = kept_vectors.reshape(n_kept, width)
        shaped_codes = domain_codes.reshape(n_domains, n_domain_codes)
        shaped_dense = domain_dense.reshape(n_domains, n_domain_dense)
        return cls(day, counts, vectors, codes, dense, shaped_codes, shaped_dense)


def blend(vectors_DK: F32, counts_D: F32, prior_DK: F32, kappa: float) -> F32:
    """The served user-domain vectors (n m + kappa v) / (n + kappa): (D, K) float32, also for leading batch axes.

    n = 0 (a stranger, a Redis time-out) gives the domain's own vector v: the same formula, no branch.
    """
    n = counts_D[..., None]
    blended: F32 = ((n * vectors_DK + kappa * prior_DK) / (n + kappa)).astype(np.float32)
    return blended


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
