"""Reading the ledger: what was answered, what became of it, and the rows that the next night learns from.

A retry repeats a request_id, a client repeats an event_id: each counts once. A request_id is the caller's, so it is only
trusted together with the user: two users under one request_id are two requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from abtest.drain import EXPOSURE, FEEDBACK, INTERLEAVED, DrainReport, drain, scan
from contracts.errors import BadInput

__all__ = [
    "DrainReport", "JoinReport", "drain", "exposures", "feedback", "interleaved", "join_report", "joined", "training_rows",
]  # fmt: skip

_REQUEST = ["request_id", "user_id"]
_SHOWN = [*_REQUEST, "ad_id"]
_ENTRY = ["stream_ms", "stream_seq"]
WINDOW = timedelta(days=7)  # a click or conversion that comes later than this is not put down to the impression


@dataclass(frozen=True)
class JoinReport:
    """Where every event went: events = duplicate + orphan + late + joined."""

    exposures: int
    duplicate_exposures: int
    events: int
    duplicate_events: int
    orphan_events: int
    late_events: int
    joined_events: int


def exposures(
    directory: Path, since: date | None = None, until: date | None = None, among: pl.LazyFrame | None = None
) -> pl.LazyFrame:
    """Answered requests (EXPOSURE), each once: the first of its repeats. Days inclusive. among: (request_id, user_id) of those
    that are asked for, all without it."""
    return _first(_of(_scan(directory, "exposure", EXPOSURE, since, until), among), _REQUEST)


def feedback(
    directory: Path, since: date | None = None, until: date | None = None, among: pl.LazyFrame | None = None
) -> pl.LazyFrame:
    """Outcomes (FEEDBACK), each event_id once: the first of its repeats. Days inclusive, as the gateway received them."""
    return _first(_of(_scan(directory, "feedback", FEEDBACK, since, until), among), ["event_id"])


def interleaved(directory: Path, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
    """The credit log (INTERLEAVED): whose pick each ad of an interleaved answer was. Of a repeated request, what its first answer
    was is what counts."""
    log = _scan(directory, "interleaved", INTERLEAVED, since, until)
    answers = exposures(directory, since, until, among=log.select(_REQUEST))
    return log.join(answers.select(_ENTRY), on=_ENTRY, how="semi")


def joined(
    directory: Path, since: date | None = None, until: date | None = None, window: timedelta = WINDOW,
    among: pl.LazyFrame | None = None,
) -> pl.LazyFrame:  # fmt: skip
    """One row per shown ad that was seen: an impression, click or conversion of it came back within `window`.

    Columns: request_id, user_id, domain, time, bundle_id, recipe, arms, context of the exposure; ad_id, position, p_click,
    rank_score, bid of the ad; clicked (bool), conversions (int), conversion_value, revenue: for a clicked ad the click's
    `value` where it was given, else the bid, in currency units; `since` and `until` choose days of exposures."""
    return (
        _matched(directory, since, until, among)
        .filter(pl.col("delay") <= window)
        .sort("stream_ms_right", "stream_seq_right")
        .group_by(_SHOWN, maintain_order=True)
        .agg(
            pl.col("domain", "time", "bundle_id", "recipe", "arms", "context").first(),
            pl.col("position", "p_click", "rank_score", "bid").first(),
            clicked=(pl.col("type") == "click").any(),
            conversions=(pl.col("type") == "conversion").sum(),
            conversion_value=pl.col("value").filter(pl.col("type") == "conversion").sum(),
            click_value=pl.col("value").filter(pl.col("type") == "click").drop_nulls().first(),
        )
        .with_columns(revenue=pl.when("clicked").then(pl.coalesce("click_value", "bid")).otherwise(0.0))
        .drop("click_value")
    )


def join_report(directory: Path, since: date | None = None, until: date | None = None, window: timedelta = WINDOW) -> JoinReport:
    """Counts of the same join. An orphan names no ad that was shown to that user in that request on those days."""
    answers, outcomes = exposures(directory, since, until), feedback(directory, since)
    delays = _matched(directory, since, until).select(late=pl.col("delay") > window).collect()["late"]
    unique_events = _count(outcomes)
    return JoinReport(
        exposures=_count(answers),
        duplicate_exposures=_count(_scan(directory, "exposure", EXPOSURE, since, until)) - _count(answers),
        events=_count(_scan(directory, "feedback", FEEDBACK, since, None)),
        duplicate_events=_count(_scan(directory, "feedback", FEEDBACK, since, None)) - unique_events,
        orphan_events=unique_events - len(delays),
        late_events=int(delays.sum()),
        joined_events=len(delays) - int(delays.sum()),
    )


def training_rows(
    directory: Path,
    context: Sequence[str] = (),
    since: date | None = None,
    until: date | None = None,
    window: timedelta = WINDOW,
) -> pl.LazyFrame:
    """Canonical events: user_id, ad_id, domain (String), timestamp Datetime(us, UTC), label Float32 (1 clicked), bid
    Float64, bundle_id (which answered), then the named context features as String, null where the request did not carry
    them. Raises BadInput for a feature name with a backslash, which a JSON path cannot express."""
    return joined(directory, since, until, window).select(
        "user_id",
        "ad_id",
        "domain",
        pl.col("time").alias("timestamp"),
        pl.col("clicked").cast(pl.Float32).alias("label"),
        "bid",
        "bundle_id",
        *(pl.col("context").str.json_path_match(_json_path(name)).alias(name) for name in context),
    )


def _matched(directory: Path, since: date | None, until: date | None, among: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """One row per unique feedback event of a shown ad, with the exposure, and `delay` between the two."""
    shown = (
        exposures(directory, since, until, among)
        .explode("ads", empty_as_null=False)
        .unnest("ads")
        .unique(_SHOWN, keep="first", maintain_order=True)
    )
    events = feedback(directory, since, among=among).select("stream_ms", "stream_seq", *_SHOWN, "type", "value", "received")
    return shown.join(events, on=_SHOWN, how="inner").with_columns(delay=pl.col("received") - pl.col("time"))


def _of(frame: pl.LazyFrame, among: pl.LazyFrame | None) -> pl.LazyFrame:
    return frame if among is None else frame.join(among.unique(_REQUEST), on=_REQUEST, how="semi")


def _first(frame: pl.LazyFrame, key: list[str]) -> pl.LazyFrame:
    return frame.unique(key, keep="first", maintain_order=True)


def _count(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def _json_path(name: str) -> str:
    if "\\" in name:
        raise BadInput(f"context feature {name!r} has a backslash in its name", "rename the feature")
    quoted = name.replace("'", "\\'")
    return f"$['{quoted}']"


def _scan(directory: Path, kind: str, schema: pl.Schema, since: date | None, until: date | None) -> pl.LazyFrame:
    """Files of one kind in the order of the stream, days since .. until."""
    files = [path for day, path in _parts(directory, kind) if (since is None or day >= since) and (until is None or day <= until)]
    return scan(files, schema).sort("stream_ms", "stream_seq")


def _parts(directory: Path, kind: str) -> Iterator[tuple[date, Path]]:
    for path in sorted(directory.glob(f"day=*/{kind}-*.parquet")):
        yield date.fromisoformat(path.parent.name.removeprefix("day=")), path
