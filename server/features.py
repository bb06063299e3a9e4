"""What a request knows: the user's row from Redis, or the stranger's by the same formula, and its encoded context.

A missing row is not a branch downstream: a stranger is a UserRow with n = 0 everywhere, so that the blend
(n m + kappa v_d) / (n + kappa) gives the domain's prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from contracts.errors import BadInput
from contracts.schema import USER_ID, Encoded
from contracts.user_row import UserRow, blend
from server.bundle import Bundle
from server.errors import Problem
from server.inference import F32

_CONTEXTS = 4096  # kept for each bundle, with keys of some 100 bytes; then forgotten


def stranger(bundle: Bundle, user_id: str) -> UserRow:
    """The row of a user of whom nothing is known but the id: a schema may know the id where Redis has no row."""
    schema = bundle.schema
    domains, width = bundle.vector_shape
    user = schema.encode("user", {USER_ID: [user_id]}, 1)
    user_domain = schema.encode("user_domain", {}, domains)
    counts = np.zeros(domains, dtype=np.float32)
    vectors = np.zeros((domains, width), dtype=np.float32)
    return UserRow(0, counts, vectors, user.codes[0], user.dense[0], user_domain.codes, user_domain.dense)


def read_row(bundle: Bundle, data: bytes) -> UserRow:
    """Unpack a stored row and check that it was written for this bundle. Raises ValueError when it was not."""
    row = UserRow.unpack(data)
    codes, dense = bundle.schema.width("user")
    domain_codes, domain_dense = bundle.schema.width("user_domain")
    found = (row.vectors.shape, len(row.codes), len(row.dense), row.domain_codes.shape[1], row.domain_dense.shape[1])
    expected = (bundle.vector_shape, codes, dense, domain_codes, domain_dense)
    if found != expected:
        raise ValueError(f"user row has widths {found}, bundle {bundle.bundle_id} expects {expected}")
    return row


def encode_context(bundle: Bundle, context: Mapping[str, Any]) -> Encoded:
    """(1, Ic) codes and (1, Nc) dense, not to be changed: contexts repeat (an hour, a page), so the last ones' are kept. Keys
    that the schema does not know are ignored; a value of the wrong kind is 422."""
    try:
        key = msgspec.json.encode(context)  # as written: of 1, 1.0 and true, equal keys of a dict, each encodes in its own way
        known = bundle.contexts.get(key)
        if known is not None:
            return known
        found = bundle.schema.encode("context", {name: [value] for name, value in context.items()}, 1)
    except (BadInput, OverflowError) as error:
        raise Problem(422, "bad-input", f"context: {error}", field="context") from None
    if len(bundle.contexts) >= _CONTEXTS:
        bundle.contexts.clear()
    bundle.contexts[key] = found
    return found


def served_vectors(bundle: Bundle, row: UserRow) -> F32 | None:
    """(1, D, K) blended user-domain vectors, None when the ranker reads none."""
    entry = bundle.manifest.ranker and bundle.manifest.ranker.user_vectors
    if not entry or bundle.domain_vectors is None:
        return None
    return blend(row.vectors, row.counts, bundle.domain_vectors, entry.kappa)[None]
