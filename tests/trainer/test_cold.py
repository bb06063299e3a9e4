"""Slices of test rows by what was seen before, against rows counted by hand."""

from __future__ import annotations

import numpy as np

from trainer.cold import cold_auc
from trainer.scoring import Scored


class _Seen:
    """Before the test: user 0 met ad 5 in domain 0, user 1 met ad 6 in domain 1."""

    domains = ("a", "b")
    _columns = {"user_row": [0, 1], "ad_row": [5, 6], "domain": [0, 1]}

    def column(self, split: str, name: str) -> np.ndarray:
        return np.array(self._columns[name] if split == "train" else [], dtype=np.int32)


def _scored(user: list[int], ad: list[int], domain: list[int], label: list[int], logit: list[float]) -> Scored:
    columns = (np.array(one) for one in (label, domain, user, ad))
    return Scored(np.array(logit, dtype=np.float32), *columns)  # type: ignore[arg-type]


def test_every_row_is_in_one_slice_a_side() -> None:
    scored = _scored(
        user=[0, 0, 1, 1, 2, 2, 0, 0], ad=[5] * 6 + [7] * 2, domain=[0] * 8, label=[1, 0] * 4, logit=[1, 0, 0, 1, 1, 1, 1, 0]
    )
    found = cold_auc(scored, _Seen(), ("train", "valid"))  # type: ignore[arg-type]
    assert {name: one["rows"] for name, one in found.items()} == {
        "known_users": 4,
        "new_here_users": 2,
        "new_users": 2,
        "known_ads": 6,
        "new_ads": 2,
    }
    assert all(one["positives"] == one["rows"] / 2 for one in found.values())
    aucs = {name: one["weighted_domain"] for name, one in found.items()}
    assert [aucs[f"{one}_users"] for one in ("known", "new_here", "new")] == [1.0, 0.0, 0.5]
    assert aucs["known_ads"] == 0.5 and aucs["new_ads"] == 1.0


def test_a_slice_of_one_class_has_no_number() -> None:
    found = cold_auc(_scored([2, 2], [5, 6], [0, 0], [1, 1], [0.0, 1.0]), _Seen(), ("train",))  # type: ignore[arg-type]
    assert found == {}
