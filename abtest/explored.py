"""The ledger's drawn slates with what became of them: what a replay reads."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl

from abtest.ledger import exposures, joined

_REQUEST = ["request_id", "user_id"]


def explored(directory: Path, since: date | None = None, until: date | None = None) -> pl.DataFrame:
    """One row an answer whose slate was drawn, in the order of time: request_id, user_id, domain, time, bundle_id, recipe,
    context (JSON), excluded, and lists over its places, first place first: ad_id, propensity, clicked (0 or 1), revenue
    (ledger.joined). An ad without feedback was not clicked. Days inclusive."""
    answers = exposures(directory, since, until).filter(
        pl.col("ads").list.eval(pl.element().struct.field("propensity").is_not_null()).list.any()
    )
    outcomes = joined(directory, since, until).select(*_REQUEST, "ad_id", "clicked", "revenue")
    places = (
        answers.select(*_REQUEST, "ads")
        .explode("ads", empty_as_null=False)
        .unnest("ads")
        .select(*_REQUEST, "ad_id", "position", "propensity")
        .join(outcomes, on=[*_REQUEST, "ad_id"], how="left")
        .with_columns(pl.col("clicked").fill_null(False).cast(pl.Float64), pl.col("revenue").fill_null(0.0))
        .sort("position")
        .group_by(_REQUEST, maintain_order=True)
        .agg("ad_id", "propensity", "clicked", "revenue")
    )
    kept = answers.select(*_REQUEST, "domain", "time", "bundle_id", "recipe", "context", "excluded")
    return kept.join(places, on=_REQUEST, how="inner").sort("time", *_REQUEST).collect()
