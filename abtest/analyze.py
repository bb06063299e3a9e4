"""Was it better? Per arm, overall and in each domain: units, clicks, revenue, conversions, intervals, lifts, SRM.

The unit is the user, because users are what was randomised: ratios such as CTR take their variance over users, not over
impressions (arXiv 1803.06336, section 4). A user counts as exposed once per experiment and arm, from the first exposure
on, whether or not anything came of it. A user seen in two arms is counted, reported and left out.

Intervals are of fixed horizon: they hold for one look at a time that was chosen beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from abtest.definitions import Definitions, Rule
from abtest.ledger import JoinReport, exposures, join_report, joined
from abtest.stats import Estimate, Mean, NotComputable, Proportion, Ratio, SrmCheck, Statistic, interval, lift, srm

Result = Estimate | NotComputable

METRICS = ("ctr", "ecpm", "revenue_per_unit", "converted")
"""ctr: clicks / impression. ecpm: 1000 * revenue / impression. revenue_per_unit: currency a user. converted: share of users."""

_SUMS = ("impressions", "clicks", "conversions", "revenue")


@dataclass(frozen=True)
class ArmReport:
    """One arm in one slice. values and lifts by metric; lifts are relative to the control (a fraction), none for itself."""

    arm: str
    recipe: str | None
    units: int
    impressions: int
    clicks: int
    conversions: int
    revenue: float
    values: dict[str, Result]
    lifts: dict[str, Result]


@dataclass(frozen=True)
class Slice:
    """All traffic, or one domain's. arms in the definition's order, the control first."""

    arms: list[ArmReport]
    srm: SrmCheck | NotComputable

    def arm(self, name: str) -> ArmReport:
        return next(one for one in self.arms if one.arm == name)


@dataclass(frozen=True)
class ExperimentReport:
    """crossed_units: users seen in two arms (left out); unknown_arms: users in arms that the definition does not have."""

    experiment: str
    control: str
    confidence: float
    overall: Slice
    domains: dict[str, Slice]
    crossed_units: int
    unknown_arms: dict[str, int]
    join: JoinReport


def report(
    directory: Path, definitions: Definitions, experiment: str,
    since: date | None = None, until: date | None = None, confidence: float = 0.95,
) -> ExperimentReport:  # fmt: skip
    """Read the ledger's days since .. until. Raises BadInput for an experiment that is not defined."""
    rule = definitions.experiment(experiment)
    met = _in_experiment(exposures(directory, since, until), experiment).select("user_id", "arm", "domain").unique().collect()
    per_user = met.group_by("user_id").agg(pl.col("arm").n_unique())
    crossed = per_user.filter(pl.col("arm") > 1)
    unknown = met.filter(~pl.col("arm").is_in(rule.arms)).unique(["user_id", "arm"]).group_by("arm").len().sort("arm")
    outcomes = _in_experiment(joined(directory, since, until), experiment).group_by("user_id", "arm", "domain").agg(
        impressions=pl.len(),
        clicks=pl.col("clicked").sum(),
        conversions=pl.col("conversions").sum(),
        revenue=pl.col("revenue").sum(),
    )  # fmt: skip
    units = (
        met.join(crossed, on="user_id", how="anti")
        .join(outcomes.collect(), on=["user_id", "arm", "domain"], how="left")
        .with_columns(pl.col(_SUMS).fill_null(0))
    )
    domains = units["domain"].unique().sort().to_list()
    return ExperimentReport(
        experiment=experiment,
        control=rule.arm(0),
        confidence=confidence,
        overall=_slice(units, rule, confidence),
        domains={domain: _slice(units.filter(pl.col("domain") == domain), rule, confidence) for domain in domains},
        crossed_units=len(crossed),
        unknown_arms=dict(unknown.iter_rows()),
        join=join_report(directory, since, until),
    )


def _in_experiment(frame: pl.LazyFrame, experiment: str) -> pl.LazyFrame:
    """Rows of one experiment, with its arm as a column."""
    arms = pl.col("arms").list.eval(pl.element().filter(pl.element().struct.field("experiment") == experiment))
    arm = arms.list.first().struct.field("arm")
    return frame.with_columns(arm=arm).filter(pl.col("arm").is_not_null())


def _slice(rows: pl.DataFrame, rule: Rule, confidence: float) -> Slice:
    """rows: one a user, arm and domain."""
    users = rows.group_by("user_id", "arm").agg(pl.col(_SUMS).sum())
    statistics: dict[str, dict[str, Statistic]] = {}
    arms: list[ArmReport] = []
    for index, arm in enumerate(rule.arms):
        mine = users.filter(pl.col("arm") == arm)
        statistics[arm] = _statistics(mine)
        control = statistics[rule.arm(0)]
        value = rule.variations[index]
        arms.append(
            ArmReport(
                arm=arm,
                recipe=value.get("recipe") if isinstance(value, dict) else None,
                units=len(mine),
                impressions=int(mine["impressions"].sum()),
                clicks=int(mine["clicks"].sum()),
                conversions=int(mine["conversions"].sum()),
                revenue=float(mine["revenue"].sum()),
                values={name: interval(one, confidence) for name, one in statistics[arm].items()},
                lifts={name: lift(one, control[name], confidence) for name, one in statistics[arm].items()} if index else {},
            )
        )
    weights = {arm: end - start for arm, (start, end) in zip(rule.arms, rule.spans(), strict=True)}
    return Slice(arms, srm({one.arm: one.units for one in arms}, weights))


def _statistics(users: pl.DataFrame) -> dict[str, Statistic]:
    """The four metrics of one arm; users: one row a user."""
    impressions, revenue = users["impressions"].to_numpy(), users["revenue"].to_numpy()
    return {
        "ctr": Ratio.of(users["clicks"].to_numpy(), impressions),
        "ecpm": Ratio.of(1000 * revenue, impressions),
        "revenue_per_unit": Mean.of(revenue),
        "converted": Proportion(len(users), int((users["conversions"] > 0).sum())),
    }


def slices(one: ExperimentReport) -> Iterable[tuple[str, Slice]]:
    """("all domains", overall), then each domain."""
    yield "all domains", one.overall
    yield from one.domains.items()
