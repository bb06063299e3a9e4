"""The canonical dataset: a directory of Parquet under one `dataset.yaml`, read lazily under the canonical column names.

events: user_id str, ad_id str, domain str, label f32, timestamp Datetime(us, UTC) when there is one, split str when the
file names fix it, bid f32 when each event has one, and every feature column that stands in the event files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from contracts.files import sha256_file
from contracts.schema import Side
from trainer.datasets.spec import SPEC_FILE, BidSpec, DatasetSpec, TimestampSpec, read_spec
from trainer.datasets.split import SPLIT_NAMES, Splits, TimeSplit, by_file, by_hash

__all__ = ["SIDE_TABLES", "BidSpec", "Dataset", "DatasetSpec", "Splits", "TimestampSpec", "natural_order"]

SIDE_TABLES: dict[Side, str] = {
    "user": "users.parquet",
    "ad": "ads.parquet",
    "user_domain": "user_domains.parquet",
    "ad_domain": "ad_domains.parquet",
}
KEYS: dict[Side, tuple[str, ...]] = {
    "user": ("user_id",),
    "ad": ("ad_id",),
    "user_domain": ("user_id", "domain"),
    "ad_domain": ("ad_id", "domain"),
}
_UTC = pl.Datetime("us", "UTC")
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


class Dataset:
    """A dataset on disk; nothing but dataset.yaml and Parquet footers is read until a frame is collected.

    extra_events: directories of event Parquet under canonical column names, such as the rows a gateway logged; they
    join the training data (by time where there is a time).
    """

    def __init__(self, directory: Path, spec: DatasetSpec, extra_events: Sequence[Path] = ()) -> None:
        self.dir = directory
        self.spec = spec
        self.extra_events = tuple(extra_events)

    @classmethod
    def open(cls, directory: Path | str, extra_events: Sequence[Path | str] = ()) -> Dataset:
        directory = Path(directory)
        dataset = cls(directory, read_spec(directory), [Path(one) for one in extra_events])
        dataset.events_files()
        return dataset

    def events_files(self) -> list[Path]:
        """Raises BadInput when there are none."""
        files = sorted((self.dir / "events").glob("*.parquet"))
        if not files:
            raise BadInput(f"{self.dir / 'events'} holds no .parquet file", "write the impressions to events/*.parquet")
        return files

    @cached_property
    def files_fix_split(self) -> bool:
        """Without a timestamp, event files named train*, valid*, test* are the splits."""
        if self.spec.timestamp:
            return False
        named = {file.name: _split_of(file) is not None for file in self.events_files()}
        if any(named.values()) and not all(named.values()):
            odd = next(name for name, has_split in named.items() if not has_split)
            raise BadInput(
                f"{self.dir / 'events' / odd}: its name starts with none of {', '.join(SPLIT_NAMES)}, others' names do",
                "rename it after the split it belongs to",
            )
        return all(named.values())

    def scan_events(self, columns: Sequence[str] = ()) -> pl.LazyFrame:
        """Canonical events. columns: further raw columns to carry along, under their own names."""
        frames = [self._scan_file(file, columns) for file in self.events_files()]
        frames += [self._scan_extra(file, columns) for folder in self.extra_events for file in sorted(folder.rglob("*.parquet"))]
        return pl.concat(frames, how="diagonal_relaxed")

    def users(self) -> pl.LazyFrame | None:
        """user_id str and the user features that stand in users.parquet; None without that file."""
        return self._scan_side("user")

    def ads(self) -> pl.LazyFrame | None:
        """ad_id str, the ad features of ads.parquet, and bid f32 when it is given per ad."""
        return self._scan_side("ad")

    def user_domains(self) -> pl.LazyFrame | None:
        return self._scan_side("user_domain")

    def ad_domains(self) -> pl.LazyFrame | None:
        """ad_id, domain, the ad_domain features, and bid f32 and active bool when the file has them."""
        return self._scan_side("ad_domain")

    def candidates(self, split: str) -> pl.LazyFrame | None:
        """user_id, domain, ad_ids: the list to rank, the positive among it, shuffled. Follows `split_scans`: where no test
        events exist, the valid ones are the test, and so are their candidates."""
        if split == "test" and self.files_fix_split and not any(_split_of(one) == "test" for one in self.events_files()):
            split = "valid"
        path = self.dir / "candidates" / f"{split}.parquet"
        return pl.scan_parquet(path) if path.is_file() else None

    def source_of(self, feature: str) -> str:
        """The file a declared feature is read from: its side's table, else "events". Raises BadInput when in neither."""
        spec = next(one for one in self.spec.features if one.name == feature)
        table = SIDE_TABLES.get(spec.side)
        if table and feature in self._schema(table):
            return table
        if feature in self._event_columns:
            return "events"
        where = f"{table} nor in events/*.parquet" if table else "events/*.parquet"
        raise BadInput(
            f"{self.dir}: feature {feature!r} (side {spec.side}) is a column {'neither of' if table else 'missing from'} {where}",
            "write the column, or take the feature out of dataset.yaml",
        )

    def domains(self) -> list[str]:
        """Every domain of the events, 2 before 10."""
        names = self.scan_events().select(pl.col("domain").unique()).collect(engine="streaming")["domain"]
        return natural_order(names.drop_nulls())

    def digest(self) -> str:
        """sha256 over names and content of all files but truth/; changes when a byte of the data does."""
        total = hashlib.sha256()
        roots = [self.dir, *self.extra_events]
        for number, root in enumerate(roots):
            for path in sorted(root.rglob("*")):
                name = path.relative_to(root).as_posix()
                if path.is_file() and not name.startswith("truth/") and (path.suffix == ".parquet" or name == SPEC_FILE):
                    total.update(f"{number}\0{name}\0{sha256_file(path)}\n".encode())
        return total.hexdigest()

    def cutoff(self, test_from: str | int | None = None) -> datetime | None:
        """Where the test begins, UTC: an ISO date is midnight in the dataset's timezone, a number is epoch ms; by default
        about the last fifth of the days. None without a timestamp."""
        if self.spec.timestamp is None:
            if test_from is not None:
                raise BadInput(
                    f"{self.dir / SPEC_FILE} names no timestamp, so there is no time to split at (test_from={test_from!r})",
                    "leave --test-from out, or add `timestamp:`",
                )
            return None
        return TimeSplit(self.scan_events(), self.spec.timezone).cutoff(test_from)

    def split_scans(self, test_from: str | int | None = None) -> Splits:
        """train, valid, test. With a timestamp: test from the cutoff on, valid = the last of the days before it. With named
        files: those; a missing valid is a seeded tenth of train, a missing test is the valid. Otherwise 80/10/10 by a
        seeded hash of user, ad and domain, so that repeats of one triple stay together."""
        cutoff = self.cutoff(test_from)
        events = self.scan_events()
        if cutoff is not None:
            return TimeSplit(events, self.spec.timezone).split(cutoff)
        if self.files_fix_split:
            return by_file(events, {_split_of(one) for one in self.events_files()})
        return by_hash(events)

    def _scan_file(self, file: Path, columns: Sequence[str]) -> pl.LazyFrame:
        spec = self.spec
        frame = pl.scan_parquet(file)
        schema = frame.collect_schema()
        wanted = [_text(spec.user_id, "user_id"), _text(spec.ad_id, "ad_id"), _text(spec.domain, "domain")]
        wanted.append((pl.col(spec.label) if spec.label else pl.lit(1)).cast(pl.Float32).alias("label"))
        if spec.timestamp:
            wanted.append(_utc(spec.timestamp, schema.get(spec.timestamp.column)))
        elif self.files_fix_split:
            wanted.append(pl.lit(_split_of(file)).alias("split"))
        if spec.bid and spec.bid.column in schema:
            wanted.append(pl.col(spec.bid.column).cast(pl.Float32).alias("bid"))
        missing = [one for one in spec_columns(spec) if one not in schema]
        if missing:
            raise BadInput(f"{file}: column {missing[0]!r} is missing", f"it has {', '.join(schema.names())}")
        carried = [one for one in (*self._event_features, *columns) if one in schema]
        return frame.select(*wanted, *(pl.col(one) for one in carried))

    def _scan_extra(self, file: Path, columns: Sequence[str]) -> pl.LazyFrame:
        frame = pl.scan_parquet(file, hive_partitioning=False)
        schema = frame.collect_schema()
        has_time = self.spec.timestamp is not None
        needed = ["user_id", "ad_id", "domain", "label", *(["timestamp"] if has_time else [])]
        missing = [one for one in needed if one not in schema]
        if missing:
            raise BadInput(f"{file}: column {missing[0]!r} is missing", f"logged events need {', '.join(needed)}")
        wanted = [_text(one, one) for one in ("user_id", "ad_id", "domain")] + [pl.col("label").cast(pl.Float32)]
        if has_time:
            wanted.append(_utc(TimestampSpec(column="timestamp"), schema["timestamp"]))
        elif self.files_fix_split:
            wanted.append(pl.lit("train").alias("split"))
        if "bid" in schema and self.spec.bid and self.spec.bid.column in self._event_columns:
            wanted.append(pl.col("bid").cast(pl.Float32))
        frame = frame.select(*wanted, *(pl.col(one) for one in (*self._event_features, *columns) if one in schema))
        return frame.filter(pl.col("label") == 1) if self.spec.positives_only else frame

    def _scan_side(self, side: Side) -> pl.LazyFrame | None:
        table = SIDE_TABLES[side]
        path = self.dir / table
        if not path.is_file():
            return None
        schema = self._schema(table)
        wanted = [_text(self.key_column(table, key), key) for key in KEYS[side]]
        wanted += [pl.col(one.name) for one in self.spec.features if one.side == side and one.name in schema]
        bid = self._bid_column(side)
        if bid in schema:
            wanted.append(pl.col(bid).cast(pl.Float32).alias("bid"))
        if side == "ad_domain" and "active" in schema:
            wanted.append(pl.col("active").cast(pl.Boolean))
        return pl.scan_parquet(path).select(wanted)

    def _bid_column(self, side: Side) -> str:
        """The bid's column in a side's table; ad_domains may carry one named `bid` without a declaration."""
        if self.spec.bid and self.spec.bid.per == ("domain" if side == "ad_domain" else side):
            return self.spec.bid.column
        return "bid" if side == "ad_domain" and self.spec.bid is None else ""

    def key_column(self, table: str, key: str) -> str:
        """A key's column in a side table: as dataset.yaml names it, else canonical. Raises BadInput when absent."""
        named = {"user_id": self.spec.user_id, "ad_id": self.spec.ad_id, "domain": self.spec.domain}[key]
        for name in (named, key):
            if name in self._schema(table):
                return name
        raise BadInput(f"{self.dir / table}: column {named!r} is missing", f"{table} is joined by its {key}; add the column")

    def _schema(self, table: str) -> pl.Schema:
        path = self.dir / table
        return pl.scan_parquet(path).collect_schema() if path.is_file() else pl.Schema()

    @cached_property
    def _event_columns(self) -> frozenset[str]:
        return frozenset(name for file in self.events_files() for name in pl.scan_parquet(file).collect_schema())

    @cached_property
    def _event_features(self) -> list[str]:
        return [one.name for one in self.spec.features if self.source_of(one.name) == "events"]


def spec_columns(spec: DatasetSpec) -> list[str]:
    """The columns every event file must have."""
    columns = [spec.user_id, spec.ad_id, spec.domain]
    if spec.label:
        columns.append(spec.label)
    if spec.timestamp:
        columns.append(spec.timestamp.column)
    return columns


def natural_order(names: Sequence[str] | pl.Series) -> list[str]:
    """Sorted as a person would: runs of digits by value, so 2 comes before 10 and s2 before s10."""

    def key(name: str) -> tuple[list[int | str], str]:
        return [int(part) if odd % 2 else part for odd, part in enumerate(re.split(r"(\d+)", name))], name

    return sorted(names, key=key)


def _split_of(file: Path) -> str | None:
    return next((one for one in SPLIT_NAMES if file.name.startswith(one)), None)


def _text(column: str, name: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).alias(name)


def _utc(spec: TimestampSpec, dtype: pl.DataType | None) -> pl.Expr:
    column = pl.col(spec.column)
    if isinstance(dtype, pl.Datetime):
        aware = column if dtype.time_zone else column.dt.replace_time_zone(spec.timezone, ambiguous="earliest")
        return aware.dt.convert_time_zone("UTC").cast(_UTC).alias("timestamp")
    if spec.unit is None:
        raise BadInput(f"timestamp column {spec.column!r} is {dtype} and has no unit", "write `unit: ms` (or s, us, ns)")
    number = column if dtype is not None and dtype.is_float() else column.cast(pl.Int64)
    microseconds = number // 1_000 if spec.unit == "ns" else number * _MICROSECONDS[spec.unit]
    return microseconds.cast(pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp")
