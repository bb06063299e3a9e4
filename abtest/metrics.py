"""The metrics that ad papers report, declared: what is counted, over what, and which way is better.

Users are what is randomised, so they are the units of every metric. A ratio's numerator and denominator both vary between
users: its variance is the delta method's (arXiv 1803.06336, section 4), not that of its impressions or clicks taken one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abtest.cuped import Paired
from abtest.moments import Moments
from abtest.stats import Counted, Mean, Proportion, Ratio

Kind = Literal["proportion", "mean", "ratio"]

COLUMNS = ("requests", "impressions", "clicks", "conversions", "revenue", "capped_revenue", "converted")
"""What is known of each user, and so the columns of an arm's moments; a second set of the same follows where the days before
the start are known. capped_revenue: each day's revenue, at most the plan's cap; converted: 1 with a conversion, else 0."""


@dataclass(frozen=True)
class Metric:
    """proportion: share of users with a numerator of 1; mean: numerator a user; ratio: scale * sum of numerators / sum of
    denominators."""

    name: str
    kind: Kind
    numerator: str
    meaning: str
    denominator: str | None = None
    better: Literal["up", "down"] = "up"
    scale: float = 1.0

    def statistic(self, users: Moments) -> Counted:
        """users: moments of COLUMNS, with or without the second set."""
        x = COLUMNS.index(self.numerator)
        n, mean, cross = users.n, users.mean, users.cross
        if self.kind == "proportion":
            return Proportion(n, round(n * mean[x]))
        if self.denominator is None:
            return Mean(n, float(mean[x]), float(cross[x, x]))
        y, by = COLUMNS.index(self.denominator), self.scale
        return Ratio(n, *map(float, (by * mean[x], mean[y], by**2 * cross[x, x], cross[y, y], by * cross[x, y])))

    def paired(self, users: Moments) -> Paired:
        """The same with each user's past beside it. users: moments of both sets. A share of users is a mean of zeros and ones."""
        here = [COLUMNS.index(name) for name in (self.numerator, self.denominator) if name is not None]
        scales = [self.scale, 1.0][: len(here)]
        return Paired(users.select([*here, *(at + len(COLUMNS) for at in here)], [*scales, *scales]))


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
        Metric("converted", "proportion", "converted", "share of users with a conversion"),
    )
}
CAPPED = "capped_revenue_per_user"
