"""The `events` stream moved to Parquet for good: written, then committed, then trimmed; never the other way round.

    <directory>/day=2026-11-22/exposure-<first>-<last>.parquet     day: UTC, by the gateway's clock
    <directory>/day=2026-11-22/feedback-<first>-<last>.parquet     first, last: stream ids of the batch
    <directory>/day=2026-11-22/interleaved-<first>-<last>.parquet  of the exposures, whose pick each ad was: the credit log
    <directory>/rejected/<first>-<last>.jsonl                      entries that are no events, kept for a person
    <directory>/_drained.json                                      the last committed batch

A batch is committed by `_drained.json`. A drain that dies before it leaves files that the next drain deletes and writes
again from the stream; one that dies after it leaves entries that the next drain trims and does not write again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import polars as pl
import redis

from contracts.errors import WorkFailed
from contracts.events import Exposure, from_stream
from contracts.files import aside, read_json, write_bytes, write_json
from contracts.keys import EVENTS

Entry = tuple[bytes, dict[bytes, bytes]]

_COMMITTED = "_drained.json"
_TIME = pl.Datetime("us", "UTC")
_ARM = pl.Struct({"experiment": pl.String, "arm": pl.String, "recipe": pl.String})
_AD = pl.Struct(
    {
        "ad_id": pl.String, "position": pl.Int32, "p_click": pl.Float64, "rank_score": pl.Float64, "bid": pl.Float64,
        "propensity": pl.Float64,
    }
)  # fmt: skip
_STREAM = {"stream_ms": pl.Int64(), "stream_seq": pl.Int64()}
_WHO = {"request_id": pl.String(), "user_id": pl.String(), "domain": pl.String()}

EXPOSURE = pl.Schema(
    {
        **_STREAM, **_WHO, "time": _TIME, "bundle_id": pl.String(), "recipe": pl.String(),
        "arms": pl.List(_ARM), "context": pl.String(), "ads": pl.List(_AD), "degraded": pl.List(pl.String),
        "excluded": pl.List(pl.String),
    }
)  # fmt: skip
"""One row an answered request. context: a JSON object in text, for its keys are the caller's."""

INTERLEAVED = pl.Schema(
    {
        **_STREAM, **_WHO, "time": _TIME, "experiment": pl.String(), "arm": pl.String(), "recipes": pl.List(pl.String),
        "bundle_ids": pl.List(pl.String),
        "ads": pl.List(
            pl.Struct({"ad_id": pl.String, "position": pl.Int32, "team": pl.Int8, "counts": pl.Boolean, "weight": pl.Float64})
        ),
    }
)  # fmt: skip
"""One row an interleaved answer, beside its exposure and with its stream id. team: the place of the picking recipe in `recipes`;
counts: does a click speak for it; weight: how loudly, null in what was answered before clicks were weighed: each was 1 then."""

FEEDBACK = pl.Schema(
    {
        **_STREAM, **_WHO, "event_id": pl.String(), "type": pl.String(), "ad_id": pl.String(), "position": pl.Int32(),
        "time": pl.Float64(), "value": pl.Float64(), "received": _TIME,
    }
)  # fmt: skip
"""One row an outcome. time: the client's clock in seconds, as it was told; received: the gateway's."""

_INTERLEAVED = "interleaved"
_SCHEMAS = {"exposure": EXPOSURE, _INTERLEAVED: INTERLEAVED, "feedback": FEEDBACK}


@dataclass(frozen=True)
class DrainReport:
    """What one drain moved. rejected: stream entries that are no events."""

    batches: int = 0
    exposures: int = 0
    feedback: int = 0
    rejected: int = 0


@dataclass(frozen=True, order=True)
class StreamId:
    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> StreamId:
        ms, seq = text.split("-")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def padded(self) -> str:
        """Sorts as text as it does as a number."""
        return f"{self.ms:015d}.{self.seq:09d}"


def scan(files: Sequence[Path], schema: pl.Schema) -> pl.LazyFrame:
    """Files of one kind, one after the other; what older ones had no column for is null."""
    if not files:
        return pl.LazyFrame(schema=schema)
    casts = pl.ScanCastOptions(missing_struct_fields="insert")
    return pl.scan_parquet(
        list(files), schema=schema, hive_partitioning=False, glob=False, missing_columns="insert", cast_options=casts
    )


def drain(client: redis.Redis, directory: Path, batch: int = 10_000) -> DrainReport:
    """Move the stream, as it is now, to `directory`. The client must not decode responses. One drain at a time."""
    directory.mkdir(parents=True, exist_ok=True)
    _recover(client, directory)
    total = DrainReport()
    while entries := cast(list[Entry], client.xrange(EVENTS, count=batch)):
        total = _write(entries, directory, total)
        first, last = (StreamId.parse(entries[at][0].decode()) for at in (0, -1))
        write_json(directory / _COMMITTED, {"first": str(first), "last": str(last)})
        _trim(client, last)
        if len(entries) < batch:
            break
    return total


def _recover(client: redis.Redis, directory: Path) -> None:
    """Finish or undo what the last drain left."""
    path = directory / _COMMITTED
    committed = read_json(path) if path.exists() else None
    last = StreamId.parse(committed["last"]) if committed else StreamId(-1, 0)
    for part in [*directory.glob("day=*/*-*-*.parquet"), *directory.glob("rejected/*.jsonl")]:
        if part.stem.split("-")[-1] > last.padded:
            part.unlink()
    if committed is None:
        return
    if client.xrange(EVENTS, max=f"({committed['first']}", count=1):
        raise WorkFailed(
            f"the stream holds events older than the batch {committed['first']} that was drained last",
            f"another Redis, or its clock went back; remove {path} to drain it from the start (repeats count once)",
        )
    _trim(client, last)


def _trim(client: redis.Redis, last: StreamId) -> None:
    client.xtrim(EVENTS, minid=str(StreamId(last.ms, last.seq + 1)), approximate=False)


def _write(entries: list[Entry], directory: Path, total: DrainReport) -> DrainReport:
    """One batch to files, one a day and kind; returns the running total."""
    parts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rejected: list[Entry] = []
    counts = {"exposure": 0, "feedback": 0}
    for entry in entries:
        try:
            kind, day, row = _row(entry)
        except (ValueError, KeyError, OverflowError, OSError):  # no event, or a time that no calendar has
            rejected.append(entry)
            continue
        interleaved = row.pop(_INTERLEAVED, None)
        parts.setdefault((day, kind), []).append(row)
        if interleaved is not None:
            parts.setdefault((day, _INTERLEAVED), []).append(interleaved)
        counts[kind] += 1
    span = "-".join(StreamId.parse(entries[at][0].decode()).padded for at in (0, -1))
    for (day, kind), rows in parts.items():
        with aside(directory / f"day={day}" / f"{kind}-{span}.parquet") as temporary:
            pl.DataFrame(rows, schema=_SCHEMAS[kind], orient="row").write_parquet(temporary)
    if rejected:
        write_bytes(directory / "rejected" / f"{span}.jsonl", b"".join(map(_rejected_line, rejected)))
    return DrainReport(
        batches=total.batches + 1,
        exposures=total.exposures + counts["exposure"],
        feedback=total.feedback + counts["feedback"],
        rejected=total.rejected + len(rejected),
    )


def _rejected_line(entry: Entry) -> bytes:
    """Latin-1 keeps any bytes as they are."""
    fields = {key.decode("latin-1"): value.decode("latin-1") for key, value in entry[1].items()}
    return json.dumps({"id": entry[0].decode(), "fields": fields}).encode() + b"\n"


def _row(entry: Entry) -> tuple[str, str, dict[str, Any]]:
    """kind, day and row of one stream entry."""
    event = from_stream(entry[1])
    stream_id = StreamId.parse(entry[0].decode())
    row = {"stream_ms": stream_id.ms, "stream_seq": stream_id.seq, **event.model_dump()}
    if isinstance(event, Exposure):
        row["time"] = _utc(event.time)
        row["context"] = json.dumps(event.context, ensure_ascii=False)
        wanted = {name: row[name] for name in EXPOSURE}
        if event.interleaved is not None:
            wanted[_INTERLEAVED] = _credit(row)
        return "exposure", f"{row['time']:%Y-%m-%d}", wanted
    row["received"] = _utc(event.received)
    return "feedback", f"{row['received']:%Y-%m-%d}", {name: row[name] for name in FEEDBACK}


def _credit(row: dict[str, Any]) -> dict[str, Any]:
    """The row of the credit log that belongs to a row of an exposure."""
    one = row[_INTERLEAVED]
    weights = one["weights"] or [None] * len(row["ads"])
    ads = [
        {"ad_id": ad["ad_id"], "position": ad["position"], "team": team, "counts": counts, "weight": weight}
        for ad, team, counts, weight in zip(row["ads"], one["teams"], one["counts"], weights, strict=True)
    ]
    found = {**row, **one, "recipes": list(one["recipes"]), "bundle_ids": list(one["bundle_ids"]), "ads": ads}
    return {name: found[name] for name in INTERLEAVED}


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
