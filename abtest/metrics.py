"""The metrics that ad papers report, declared: what is counted, over what, and which way is better.

Users are what is randomised, so they are the units of every metric. A ratio's numerator and denominator both vary between
users: its variance is the delta method's (arXiv 1803.06336, section 4), not that of its impressions or clicks taken one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from abtest.cuped import Paired
from abtest.stats import Counted, Mean, Proportion, Ratio

Kind = Literal["proportion", "mean", "ratio"]
Columns = Mapping[str, NDArray[np.float64]]
"""A column of SUMS -> (n,), one value a user; with `before_` in front of the name, the same before the experiment."""

SUMS = ("requests", "impressions", "clicks", "conversions", "revenue", "capped_revenue")
"""capped_revenue: each day's revenue of the user, at most the plan's cap."""


@dataclass(frozen=True)
class Metric:
    """proportion: share of users with a positive numerator; mean: numerator a user; ratio: scale * sum of numerators / sum of
    denominators."""

    name: str
    kind: Kind
    numerator: str
    meaning: str
    denominator: str | None = None
    better: Literal["up", "down"] = "up"
    scale: float = 1.0

    def statistic(self, users: Columns) -> Counted:
        values = users[self.numerator]
        if self.kind == "proportion":
            return Proportion(len(values), int(np.count_nonzero(values > 0)))
        if self.denominator is None:
            return Mean.of(values)
        return Ratio.of(self.scale * values, users[self.denominator])

    def paired(self, users: Columns) -> Paired:
        """The same with each user's past beside it. A share of users is taken as a mean of zeros and ones."""
        now, before = users[self.numerator], users[f"before_{self.numerator}"]
        if self.kind == "proportion":
            return Paired.of(now > 0, before > 0)
        if self.denominator is None:
            return Paired.of(now, before)
        return Paired.of(self.scale * now, users[self.denominator], self.scale * before, users[f"before_{self.denominator}"])


METRICS = {
    metric.name: metric
    for metric in (
        Metric("pv", "mean", "impressions", "ads seen, a user"),
        Metric("ctr", "ratio", "clicks", "clicks, an ad seen", "impressions"),
        Metric("rpm", "ratio", "revenue", "revenue of a thousand answers", "requests", scale=1000),
        Metric("ecpm", "ratio", "revenue", "revenue of a thousand ads seen", "impressions", scale=1000),
        Metric("ppc", "ratio", "revenue", "revenue, a click", "clicks"),
        Metric("cvr", "ratio", "conversions", "conversions, a click", "clicks"),
        Metric("revenue_per_user", "mean", "revenue", "revenue, a user"),
        Metric("capped_revenue_per_user", "mean", "capped_revenue", "revenue, a user, each day's up to the plan's cap"),
        Metric("converted", "proportion", "conversions", "share of users with a conversion"),
    )
}
CAPPED = "capped_revenue_per_user"
