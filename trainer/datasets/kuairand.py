"""KuaiRand-Pure, -1K and -27K (Gao et al., CIKM 2022, arXiv 2208.08696): impressions of videos with clicks; domain = tab.

Only what was known before the impression becomes a feature: never play_time_ms, is_like and the other outcomes. A user's
history ends before the first event: it comes from user_sequences.parquet, or from the logs of the days before _EVENTS_FROM,
which then are history only. Days are told apart by `date` there; `time_ms` (what splits use) lags it in about 1% of the rows.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from contracts.schema import FeatureSpec
from trainer.datasets.files import find, find_one, require_columns, scan
from trainer.datasets.spec import DatasetSpec, TimestampSpec
from trainer.datasets.writer import DatasetWriter, writing

_EVENTS_FROM = 20220425
_HISTORY = 50
_LOG = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "tab"]
_SEQUENCES = ("watch_seq", "like_seq", "long_watch_seq")
_USER_NUMERIC = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_CATEGORICAL = (
    *("user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"),
    *("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range"),
    *(f"onehot_feat{number}" for number in range(18)),
)
_AD_NUMERIC = ("video_duration", "server_width", "server_height")
_AD_CATEGORICAL = ("author_id", "video_type", "upload_dt", "upload_type", "visible_status", "music_id", "music_type", "tag")


def import_kuairand(from_dir: Path, to_dir: Path, domain_by: str | None = None) -> list[str]:
    """log_standard_*.{csv,csv.gz,parquet} (all that are there; log_random_* is left out), user_features_{pure,1k,27k}.csv,
    video_features_basic_{pure,1k,27k}.csv, and user_sequences.parquet if there is one. Exact duplicate rows are dropped.

    domain_by: a categorical column of the users, whose segments split each tab into domains of their own: "1|full_active"."""
    if domain_by not in (None, *_USER_CATEGORICAL):
        raise BadInput(f"users have no segments by {domain_by!r}", f"known: {', '.join(_USER_CATEGORICAL)}")
    logs = find(from_dir, "log_standard_*") or [find_one(from_dir, "log_standard_*")]
    sequences = find(from_dir, "user_sequences")
    users = _features(find_one(from_dir, "user_features_*"), "user_id", _USER_NUMERIC, _USER_CATEGORICAL)
    ads = _features(find_one(from_dir, "video_features_basic_*"), "video_id", _AD_NUMERIC, _AD_CATEGORICAL)
    segments = users.select("user_id", pl.col(domain_by).fill_null("")).collect() if domain_by else None
    with writing(to_dir, _spec()) as writer:
        days, raw_rows = _days(logs, writer.scratch())
        has_later = max(days) >= _EVENTS_FROM
        early = [file for day, file in days.items() if has_later and day < _EVENTS_FROM]
        events = {day: file for day, file in days.items() if file not in early}
        kept = sum(_write_day(writer, day, file, segments) for day, file in events.items())
        if sequences:
            as_strings = [pl.col(one).cast(pl.List(pl.String)) for one in _SEQUENCES]
            history = pl.scan_parquet(sequences[0]).select(pl.col("user_id").cast(pl.String), *as_strings)
        else:
            history = _history(early)
        writer.add("users.parquet", users.join(history, on="user_id", how="full", coalesce=True).sort("user_id"))
        writer.add("ads.parquet", ads.sort("video_id"))
        before = sum(_height(file) for file in early)
    in_events = raw_rows - before
    notes = [f"{in_events:,} log rows read, {in_events - kept:,} exact duplicates dropped, {kept:,} events written"]
    if before:
        notes.append(f"{before:,} rows before {_EVENTS_FROM} became history, not events")
    return notes


def _spec() -> DatasetSpec:
    features = [FeatureSpec(name=one, side="user", kind="numeric") for one in _USER_NUMERIC]
    features += [FeatureSpec(name=one, side="user", kind="categorical") for one in _USER_CATEGORICAL]
    features += [FeatureSpec(name=one, side="user", kind="sequence", of="ad_id", max_length=_HISTORY) for one in _SEQUENCES]
    features += [FeatureSpec(name=one, side="ad", kind="numeric") for one in _AD_NUMERIC]
    counted = ("author_id", "music_id", "tag")
    features += [FeatureSpec(name=one, side="ad", kind="categorical", statistics=one in counted) for one in _AD_CATEGORICAL]
    features.append(FeatureSpec(name="hour", side="context", kind="categorical"))
    return DatasetSpec(
        name="kuairand",
        domain="tab",
        user_id="user_id",
        ad_id="video_id",
        timestamp=TimestampSpec(column="time_ms", unit="ms", timezone="Asia/Shanghai"),
        label="is_click",
        features=tuple(features),
    )


def _features(path: Path, key: str, numeric: tuple[str, ...], categorical: tuple[str, ...]) -> pl.LazyFrame:
    frame = scan(path)
    require_columns(path, frame, [key, *numeric, *categorical])
    as_number = [pl.col(one).cast(pl.Float32) for one in numeric]
    # some codes were stored as floats: 1.0 is the category 1
    as_category = [pl.col(one).cast(pl.String).str.replace(r"\.0$", "") for one in categorical]
    return frame.select(pl.col(key).cast(pl.String), *as_category, *as_number).unique(key, keep="first", maintain_order=True)


def _days(logs: list[Path], scratch: Path) -> tuple[dict[int, Path], int]:
    """One Parquet file a log day, so that the biggest thing ever held is one day; exact duplicates share their day."""
    for number, path in enumerate(logs):
        frame = scan(path)
        require_columns(path, frame, _LOG)
        integers = frame.select(pl.all().cast(pl.Int64))
        integers.sink_parquet(pl.PartitionBy(scratch / f"log{number}", key="date"), mkdir=True)
    parts: dict[int, list[Path]] = {}
    for part in sorted(scratch.glob("log*/date=*/*.parquet")):
        parts.setdefault(int(part.parent.name.removeprefix("date=")), []).append(part)
    days, rows = {}, 0
    for day, files in sorted(parts.items()):
        frame = pl.scan_parquet(files, hive_partitioning=True)
        days[day] = scratch / f"{day}.parquet"
        frame.sink_parquet(days[day])
        rows += _height(days[day])
    return days, rows


def _height(file: Path) -> int:
    rows: int = pl.scan_parquet(file).select(pl.len()).collect().item()
    return rows


def _write_day(writer: DatasetWriter, day: int, file: Path, segments: pl.DataFrame | None) -> int:
    """segments: (user_id, segment), or None where a tab is a domain."""
    log = pl.read_parquet(file).unique(maintain_order=True).sort("time_ms", maintain_order=True)
    hour = (pl.col("hourmin") // 100).cast(pl.String).alias("hour")
    if segments is not None:
        log = log.with_columns(pl.col("user_id").cast(pl.String)).join(segments, on="user_id", how="left", maintain_order="left")
        log = log.with_columns(pl.concat_str("tab", pl.col(segments.columns[1]).fill_null(""), separator="|").alias("tab"))
    writer.add(f"events/{day}.parquet", log.select("user_id", "video_id", "tab", "time_ms", "is_click", hour))
    return len(log)


def _history(days: list[Path]) -> pl.LazyFrame:
    """Each user's last watches, likes and long views, oldest first; the running state is three short lists a user."""
    state = pl.DataFrame(schema={"user_id": pl.String} | {one: pl.List(pl.String) for one in _SEQUENCES})
    for day in days:
        log = pl.read_parquet(day).unique(maintain_order=True).sort("time_ms", maintain_order=True)
        video = pl.col("video_id").cast(pl.String)
        today = log.group_by(pl.col("user_id").cast(pl.String), maintain_order=True).agg(
            video.alias("watch_seq"),
            video.filter(pl.col("is_like") == 1).alias("like_seq"),
            video.filter(pl.col("long_view") == 1).alias("long_watch_seq"),
        )
        joined = state.join(today, on="user_id", how="full", coalesce=True, suffix="_today")
        empty = pl.lit([], dtype=pl.List(pl.String))
        longer = {one: pl.concat_list(pl.col(one, f"{one}_today").fill_null(empty)) for one in _SEQUENCES}
        state = joined.select("user_id", *(both.list.tail(_HISTORY).alias(one) for one, both in longer.items()))
    return state.lazy()
