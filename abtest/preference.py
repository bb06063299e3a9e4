"""Which of two interleaved recipes do users prefer? The credit log and the outcomes, by user, overall and in each domain.

Users are the units, as everywhere: a user's requests are alike, so that requests or clicks taken one by one would be too sure.
Clicks that count are credit of the recipe that argued for the ad, as heavy as the two disagreed (team_draft.py; each 1 in answers
older than weights). A user's preference is (the second recipe's credit - the first one's) / (both), from -1 to 1; a user without
such a click has none. It is averaged in two ways: weighted by the user's credit, which is the margin and what the verdict reads,
for it takes the fewest users (docs/experiments.md); and evenly, which no heavy clicker can sway, beside the sign test, which asks
only which way each user leans. Nobody is assigned to a recipe, so that there is no split to go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from abtest import ledger
from abtest.definitions import Definitions, interleaved
from abtest.estimate import Estimate, Result, against_zero, interval, sign_test
from abtest.multiplicity import holm
from abtest.plan import Plan
from abtest.sequential import sequential
from abtest.stats import Mean, NotComputable, Proportion, Ratio

ALL = "all domains"
FEWEST = 30
_SUMS = "^(clicks|credit|revenue)_.$"
_SHOWN = ["request_id", "user_id", "ad_id"]
Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Preference:
    """One slice. users: that were answered; clicks, revenue: that count, by recipe; prefer: users with more of their credit for
    the first, for the second, for both alike.

    margin: (second - first) / both over the sums of all users' credit, at one look; always_valid: the same at every look; holm_p:
    its p-value, corrected for all domains; revenue_margin: of what the clicks brought, money and not weighed. mean: of the
    users' preferences, by the t test. share: of the users who prefer either, those who prefer the second; sign_p: of "it is
    half"."""

    users: int
    requests: int
    clicks: tuple[int, int]
    revenue: tuple[float, float]
    prefer: tuple[int, int, int]
    margin: Result
    always_valid: Result
    revenue_margin: Result
    mean: Result
    share: Result
    sign_p: float | NotComputable
    holm_p: float | None = None

    @property
    def credited(self) -> int:
        """Users with a preference, of either kind or none."""
        return sum(self.prefer)


@dataclass(frozen=True)
class PreferenceReport:
    """One arm. alone: answers of the arm from one recipe only, who got no credit; others: answers by other recipes than the
    definition's, which are left out; start, until: first and last day with an interleaved answer."""

    experiment: str
    arm: str
    recipes: tuple[str, str]
    plan: Plan
    overall: Preference
    domains: Mapping[str, Preference]
    alone: int
    others: int
    start: date | None
    until: date | None


def preferences(
    directory: Path, definitions: Definitions, experiment: str, plan: Plan | None = None,
    since: date | None = None, until: date | None = None,
) -> list[PreferenceReport]:  # fmt: skip
    """A report for each arm of the experiment that interleaves, of the ledger's days since .. until. Raises BadInput for an
    experiment that is not defined."""
    rule = definitions.experiment(experiment)
    arms = [(arm, interleaved(value)) for arm, value in zip(rule.arms, rule.variations, strict=True)]
    return [_report(directory, experiment, arm, pair, plan or Plan(), since, until) for arm, pair in arms if pair]


def _report(
    directory: Path, experiment: str, arm: str, recipes: tuple[str, str], plan: Plan, since: date | None, until: date | None
) -> PreferenceReport:
    log = ledger.interleaved(directory, since, until).filter(
        (pl.col("experiment") == experiment) & (pl.col("arm") == arm)
    ).collect(engine="streaming")  # fmt: skip
    ours = log.filter(pl.col("recipes") == list(recipes))
    users = by_user(ours, ledger.joined(directory, since, until, among=ours.lazy().select("request_id", "user_id")))
    domains = {str(name): compare(rows, plan) for (name,), rows in sorted(users.partition_by("domain", as_dict=True).items())}
    days = ours["time"].dt.date()
    return PreferenceReport(
        experiment=experiment,
        arm=arm,
        recipes=recipes,
        plan=plan,
        overall=compare(users, plan),
        domains=_corrected(domains),
        alone=_met(directory, experiment, arm, since, until) - len(log),
        others=len(log) - len(ours),
        start=cast(date | None, days.min()),
        until=cast(date | None, days.max()),
    )


def by_user(log: pl.DataFrame, outcomes: pl.LazyFrame) -> pl.DataFrame:
    """log: of INTERLEAVED; outcomes: as `ledger.joined`. A row for each user and domain: requests, and clicks_0, clicks_1,
    credit_0, credit_1 (how much they weigh), revenue_0, revenue_1 of the clicks that count, by team."""
    shown = log.lazy().select("request_id", "user_id", "ads").explode("ads", empty_as_null=False).unnest("ads").filter("counts")
    clicked = shown.join(outcomes.filter("clicked").select(*_SHOWN, "revenue"), on=_SHOWN, how="inner")
    sums = [
        one.alias(f"{name}_{team}")
        for team in (0, 1)
        for name, one in (
            ("clicks", (pl.col("team") == team).sum().cast(pl.Float64)),
            ("credit", pl.col("weight").fill_null(1.0).filter(pl.col("team") == team).sum()),
            ("revenue", pl.col("revenue").filter(pl.col("team") == team).sum()),
        )
    ]
    credit = clicked.group_by("request_id", "user_id").agg(sums)
    return (
        log.lazy()
        .select("request_id", "user_id", "domain")
        .join(credit, on=["request_id", "user_id"], how="left")
        .group_by("user_id", "domain", maintain_order=True)
        .agg(pl.len().alias("requests"), pl.col(_SUMS).fill_null(0.0).sum())
        .collect(engine="streaming")
    )


def compare(rows: pl.DataFrame, plan: Plan) -> Preference:
    """rows: as `by_user`; a user's domains are added up."""
    users = rows.group_by("user_id", maintain_order=True).agg(pl.col("requests", _SUMS).sum())
    first, second, earned, more = (users[name].to_numpy() for name in ("credit_0", "credit_1", "revenue_0", "revenue_1"))
    margin = margin_of(first, second, plan.confidence)
    credited = int(((first + second) > 0).sum())
    up, down = int((second > first).sum()), int((second < first).sum())
    return Preference(
        users=len(users),
        requests=int(users["requests"].sum()),
        clicks=(int(users["clicks_0"].sum()), int(users["clicks_1"].sum())),
        revenue=(float(earned.sum()), float(more.sum())),
        prefer=(down, up, credited - up - down),
        margin=margin,
        always_valid=always_valid(margin, credited, plan.planned_units, plan.confidence),
        revenue_margin=margin_of(earned, more, plan.confidence),
        mean=against_zero(Mean.of(preference(first, second)), plan.confidence),
        share=interval(Proportion(up + down, up), plan.confidence) if up + down else NotComputable("no user prefers either"),
        sign_p=sign_test(up, down),
    )


def preference(first: Counts, second: Counts) -> Counts:
    """Credit by user (n,) each; the preferences (m,) of the m users with any."""
    both = first + second
    some = both > 0
    values: Counts = (second - first)[some] / both[some]
    return values


def margin_of(first: Counts, second: Counts, confidence: float = 0.95) -> Result:
    """(second - first) / both, of sums over users (n,) each: delta method for a ratio (stats.Ratio) and a t test, with the
    degrees of freedom of the users that there is something of; the others change nothing but them."""
    some = (first != 0) | (second != 0)
    return against_zero(Ratio.of((second - first)[some], (first + second)[some]), confidence)


def always_valid(margin: Result, credited: int, planned: int, confidence: float = 0.95) -> Result:
    """The margin's interval at every look. It holds for many users, so that there is none before a few have come."""
    if isinstance(margin, Estimate) and credited < FEWEST:
        return NotComputable(f"an interval for every look needs {FEWEST} users with credit, there are {credited}")
    return sequential(margin, credited, planned, confidence) if credited else margin


def _corrected(domains: dict[str, Preference]) -> dict[str, Preference]:
    """Over the domains, by Holm; the whole, which is what the arm asks, stands apart."""
    p_values = {
        name: one.always_valid.p_value
        for name, one in domains.items()
        if isinstance(one.always_valid, Estimate) and one.always_valid.p_value is not None
    }
    adjusted = holm(p_values)
    return {name: replace(one, holm_p=adjusted.get(name)) for name, one in domains.items()}


def _met(directory: Path, experiment: str, arm: str, since: date | None, until: date | None) -> int:
    """Answers of the arm, interleaved or not, each request once."""
    one = pl.element().struct
    here = pl.col("arms").list.eval((one.field("experiment") == experiment) & (one.field("arm") == arm)).list.any()
    return int(ledger.exposures(directory, since, until).filter(here).select(pl.len()).collect(engine="streaming").item())
