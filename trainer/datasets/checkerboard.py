"""The rotating checkerboard: a world whose best answer is known exactly.

Four equally frequent domains d0..d3; user u clicks ad a in domain d iff (u + d) mod 4 == a mod 4. Each pair (u, a) is clicked
in exactly one domain, so any domain-blind scorer has AUC .5 averaged over the domains, the right routing has precision 1 and
any crossed routing 0. Ids are all there is: no feature gives the law away, and inner products of learned vectors solve it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from trainer.datasets.spec import DatasetSpec, TimestampSpec
from trainer.datasets.writer import writing

CLASSES = 4
DOMAINS = tuple(f"d{d}" for d in range(CLASSES))
SPEC = DatasetSpec(
    name="checkerboard",
    domain="domain",
    user_id="user_id",
    ad_id="ad_id",
    timestamp=TimestampSpec(column="timestamp"),
    label="click",
)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


def clicks(user: np.ndarray, ad: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """The law. user, ad, domain: integer numbers of equal or broadcastable shape -> bool."""
    return np.asarray((user + domain) % CLASSES == ad % CLASSES)


def write_checkerboard(
    to_dir: Path, seed: int = 0, users: int = 200, ads: int = 200, days: int = 5, density: float = 0.5, withheld: float = 0.2
) -> list[str]:
    """Write the world. withheld: share of the pairs (u, a) that no domain's log shows (truth/withheld.parquet lists them);
    density: share of the other pairs that each domain's log shows, the same number in each domain."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * ads)
    hidden, open_pairs = np.split(pairs, [round(withheld * len(pairs))])
    shown = round(density * len(open_pairs))
    pair = np.concatenate([rng.permutation(open_pairs)[:shown] for _ in DOMAINS])
    domain = np.repeat(np.arange(CLASSES), shown)
    time = np.sort(rng.integers(0, days * _DAY_US, size=len(pair)))
    order = rng.permutation(len(pair))  # times are sorted, rows are not: every domain spans every day
    pair, domain = pair[order], domain[order]
    user, ad = np.divmod(pair, ads)
    events = pl.DataFrame(
        {
            "user_id": _names("u", user),
            "ad_id": _names("a", ad),
            "domain": _names("d", domain),
            "timestamp": pl.Series(int(_START.timestamp()) * 1_000_000 + time).cast(pl.Datetime("us", "UTC")),
            "click": clicks(user, ad, domain).astype(np.int8),
        }
    )
    hidden_user, hidden_ad = np.divmod(np.sort(hidden), ads)
    with writing(to_dir, SPEC) as writer:
        writer.add("events/events.parquet", events)
        writer.add("truth/withheld.parquet", pl.DataFrame({"user_id": _names("u", hidden_user), "ad_id": _names("a", hidden_ad)}))
        writer.add_json("truth/law.json", {"law": "(u + d) mod 4 == a mod 4", "users": users, "ads": ads, "seed": seed})
    return [f"{len(events):,} impressions, {len(DOMAINS)} domains, {users:,} users, {ads:,} ads, {len(hidden):,} pairs withheld"]


def _names(prefix: str, numbers: np.ndarray) -> pl.Series:
    return prefix + pl.Series(numbers).cast(pl.String)
