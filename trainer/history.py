"""A user's history of positive ads as a sequence feature: `history`, side user, of ad_id.

In training a row must not see its own answer there (`leave_one_out`); when served, the whole history is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.schema import AD_ID, FIRST, PAD, FeatureSchema, FeatureSpec

HISTORY = "history"
HISTORY_SPEC = FeatureSpec(name=HISTORY, side="user", kind="sequence", of=AD_ID, max_length=50)


def history_from_positives(
    user_row: NDArray[np.integer],
    ad_code: NDArray[np.integer],
    users: int,
    time: NDArray[np.integer] | None = None,
    max_length: int = HISTORY_SPEC.max_length,
) -> NDArray[np.int32]:
    """Training positives -> codes_UL (users, max_length) int32: each user's distinct known ads over all domains, oldest
    first, PAD at the end; the latest max_length when there are more (in event order when there is no time).

    user_row, ad_code, time: (P,), one a positive event; ad_code as `ad_id` is encoded.
    """
    order = np.arange(len(user_row)) if time is None else np.argsort(time, kind="stable")
    user, code = np.asarray(user_row)[order].astype(np.int64), np.asarray(ad_code)[order].astype(np.int64)
    known = code >= FIRST
    user, code = user[known], code[known]
    last = len(user) - 1 - np.unique((user * (int(code.max(initial=0)) + 1) + code)[::-1], return_index=True)[1]
    last.sort()
    user, code = user[last], code[last]
    by_user = np.argsort(user, kind="stable")
    user, code = user[by_user], code[by_user]
    counts = np.bincount(user, minlength=users)
    start = np.cumsum(counts) - counts
    at = np.arange(len(user)) - start[user] - np.maximum(counts - max_length, 0)[user]
    history = np.full((users, max_length), PAD, dtype=np.int32)
    history[user[at >= 0], at[at >= 0]] = code[at >= 0]
    return history


def leave_one_out(schema: FeatureSchema, user_codes: NDArray[np.int32], ad_id_codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """A copy of user_codes (B, Iu) in which row b's history has no ad_id_codes[b]; ad_id_codes: (B,)."""
    fields = [one for one in schema.block("user").fields if one.name == HISTORY and one.kind == "sequence"]
    if not fields:
        return user_codes
    masked = user_codes.copy()
    for field in fields:
        own = masked[:, field.columns]
        own[own == ad_id_codes[:, None]] = PAD
    return masked
