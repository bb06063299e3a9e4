"""What declared sequences of ads tell before the first impression is logged: how long a user's are, and how many users have an
ad in theirs.

    length  log(1 + n)                            of a user's sequence; of an ad: the entries it has in all users' sequences
    share   log((n + s r) / (m + s)) - log r      n against m, the entries in the sequence with most entries; r overall

What ends in the narrower sequence (long watches among watches) is a rate from before the log, and known of ads and users that
the log has not counted yet. KuaiRand-Pure, LightGBM on the last two training days, mean AUC of tabs 0, 1, 2, 4, 6: .678 with the
statistics of the log alone, .708 with these beside them.

A sequence does not change with the log, so neither do these. Without an entry both are missing, as a stranger's are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.schema import AD_ID, FIRST, FeatureSpec, ModelField

STRENGTH = 5.0  # of the overall share, in entries
Counts = NDArray[np.float64]
Floats = NDArray[np.float32]


def sequences(features: Sequence[FeatureSpec]) -> list[str]:
    return [one.name for one in features if one.kind == "sequence" and one.of == AD_ID]


def sequence_specs(features: Sequence[FeatureSpec]) -> tuple[FeatureSpec, ...]:
    """Of users, then of ads; lengths, then shares (of the sequence with most entries too, where it is 0: one layout for all)."""
    names = sequences(features)
    measures = [f"{name} length" for name in names] + ([f"{name} share" for name in names] if len(names) > 1 else [])
    return tuple(
        FeatureSpec(name=f"{prefix}{one}", side=side, kind="numeric")  # type: ignore[arg-type]
        for side, prefix in (("user", ""), ("ad", "ad in "))
        for one in measures
    )


def of_users(user_codes: NDArray[np.int32], fields: Sequence[ModelField]) -> Floats:
    """(U, M) float32, NaN where there is no entry. fields: the sequences in the order they are declared."""
    return _measures(np.stack([(user_codes[:, one.columns] >= FIRST).sum(axis=1) for one in fields], axis=1, dtype=np.float64))


def of_ads(user_codes: NDArray[np.int32], fields: Sequence[ModelField], ad_code_A: NDArray[np.int32]) -> Floats:
    """(A, M) float32. ad_code_A: (A,) of `ad_id`; what has no code of its own is in no sequence."""
    codes = 1 + int(ad_code_A.max(initial=FIRST))
    counts = []
    for one in fields:
        entries = user_codes[:, one.columns]
        counts.append(np.bincount(entries[entries >= FIRST], minlength=codes)[ad_code_A] * (ad_code_A >= FIRST))
    return _measures(np.stack(counts, axis=1).astype(np.float64))


def _measures(count_ES: Counts) -> Floats:
    length_ES = np.log1p(count_ES)
    columns = [length_ES]
    if count_ES.shape[1] > 1:
        total_S = count_ES.sum(axis=0)
        widest = int(total_S.argmax())
        share_S = np.maximum(total_S, 1.0) / max(total_S[widest], 1.0)
        of_widest_E1 = count_ES[:, widest, None]
        columns.append(np.log((count_ES + STRENGTH * share_S) / (of_widest_E1 + STRENGTH)) - np.log(share_S))
    values = np.concatenate(columns, axis=1).astype(np.float32)
    values[count_ES.sum(axis=1) == 0] = np.nan
    return values
