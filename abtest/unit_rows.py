"""One part of the ledger into units: what `ledger.joined` says of its users, counted by integers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import polars as pl

from abtest.keyed import Cells
from abtest.ledger import WINDOW

UNITS = pl.Schema(
    {
        "day": pl.Date(), "user_id": pl.String(), "domain": pl.String(), "arms": pl.String(), "requests": pl.UInt32(),
        "impressions": pl.UInt32(), "clicks": pl.UInt32(), "conversions": pl.UInt32(), "revenue": pl.Float64(),
    }
)  # fmt: skip
"""One row a day, user, domain and set of arms. arms: a line `{"experiment":...,"arm":...}` for each, none outside experiments.
requests: answers; impressions: ads of them that an event came back for; clicks: ads clicked; revenue: currency units."""

COUNTS = ("exposures", "repeated", "matched", "joined", "late")
"""Requests, and repeats of requests; events of shown ads with all their repeats, and each once: in time, and too late."""

_SUMMED = ("impressions", "clicks", "conversions", "revenue")
_DAY = timedelta(days=1)


def unit_rows(
    answers: pl.DataFrame, outcomes: pl.DataFrame, cells: Cells, days: Sequence[date]
) -> tuple[pl.DataFrame, dict[date, dict[str, int]]]:
    """answers, outcomes: of `keyed.split`. The UNITS of those days, and COUNTS by day of the exposure."""
    every = answers.with_columns(day=pl.col("time").dt.date())
    asked = _asked(every).filter(pl.col("day").is_in(days))
    shown = (
        asked.with_row_index("asked")
        .select("asked", "request", "ads", "bids")
        .explode("ads", "bids", empty_as_null=False)
        .select("asked", bid="bids", shown=pl.col("request") ^ pl.col("ads"))
        .filter(pl.col("shown").is_first_distinct())
    )
    matched = (
        outcomes.with_columns(first=pl.col("event").is_first_distinct())
        .join(shown.with_row_index("at").drop("bid"), on="shown", maintain_order="left")
        .with_columns(late=pl.col("received") - pl.lit(asked["time"]).gather("asked") > WINDOW)
    )
    once = matched.filter("first")
    joined = once.filter(~pl.col("late"))
    units = (
        asked.select("day", "user_id", user=pl.col("user_id").hash(), code=cells.code(pl.col("cell")))
        .hstack(_came_of(len(asked), shown, joined))
        .group_by("day", "user", "code")
        .agg(pl.col("user_id").first(), pl.len().alias("requests"), pl.col(_SUMMED).sum())
        .with_columns(pl.lit(names).gather("code").alias(names.name) for names in cells.names)
        .select(pl.col(name).cast(kind) for name, kind in UNITS.items())
    )
    on = asked["day"]
    found = {
        "exposures": on, "repeated": every["day"], "matched": on.gather(matched["asked"]), "joined": on.gather(joined["asked"]),
        "late": on.gather(once.filter("late")["asked"]),
    }  # fmt: skip
    by_day = {name: dict(of_days.value_counts().iter_rows()) for name, of_days in found.items()}
    counts = {day: {name: by_day[name].get(day, 0) for name in COUNTS} for day in days}
    for one in counts.values():
        one["repeated"] -= one["exposures"]
    return units, counts


def _asked(every: pl.DataFrame) -> pl.DataFrame:
    """Each request once a day: the first of its repeats. A retry after midnight is no new request."""
    today, tomorrow = (pl.col("request") ^ (pl.col("day") + later).hash() for later in (timedelta(), _DAY))
    firsts = every.with_columns(today=today).filter(pl.col("today").is_first_distinct())
    return firsts.join(firsts.select(today=tomorrow), on="today", how="anti", maintain_order="left")


def _came_of(requests: int, shown: pl.DataFrame, joined: pl.DataFrame) -> pl.DataFrame:
    """What came of each request: an ad is seen once and clicked once, at the first value that a click of it has, else at its bid.
    shown: rows of ads, `asked` is the row of their request; joined: events, `at` is the row of their ad."""
    clicks = joined.filter("click")
    request = shown["asked"].to_numpy()
    seen, clicked = np.zeros((2, len(shown)), dtype=bool)
    seen[joined["at"].to_numpy()] = True
    clicked[clicks["at"].to_numpy()] = True
    price = shown["bid"].fill_null(0.0).to_numpy(writable=True)
    valued = clicks.drop_nulls("value").reverse()  # of several values for one place the last stays, so the first goes last
    price[valued["at"].to_numpy()] = valued["value"].to_numpy()
    return pl.DataFrame(
        {
            "impressions": np.bincount(request[seen], minlength=requests),
            "clicks": np.bincount(request[clicked], minlength=requests),
            "conversions": np.bincount(joined.filter("conversion")["asked"].to_numpy(), minlength=requests),
            "revenue": np.bincount(request[clicked], price[clicked], minlength=requests),
        }
    )
