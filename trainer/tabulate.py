"""A dataset -> a Tables directory: entities encoded once each, events written chunk by chunk into memory-mapped arrays.

Events of a split are stored domain by domain (a counting sort: sizes are known before the first row is written), so that
the rows of a domain are one contiguous range and no index over the rows is ever needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from contracts.errors import BadInput
from contracts.files import replace_dir, save_array, write_json
from contracts.ids import IdTable
from contracts.schema import AD_ID, USER_ID, FeatureSchema, FeatureSpec, Side
from trainer.datasets.canonical import SIDE_TABLES, Dataset, natural_order
from trainer.freeze import MIN_COUNT, WEIGHT, freeze
from trainer.history import HISTORY_SPEC
from trainer.statistics_writer import write_statistics
from trainer.table_writer import CHUNK_ROWS, DOMAIN, ROW, Sides, TableWriter, Tally, domain_numbers

SPLITS = ("train", "valid", "test")


def tabulate(dataset: Dataset, directory: Path, test_from: str | int | None = None, min_count: int = MIN_COUNT) -> None:
    """Write the directory aside, then rename it: it is whole or absent. Raises BadInput when there is nothing to train on."""
    temporary = directory.with_name(f".{directory.name}.part")
    _Tabulation(dataset, temporary, test_from).run(min_count)
    replace_dir(temporary, directory)


class _Tabulation:
    def __init__(self, dataset: Dataset, directory: Path, test_from: str | int | None) -> None:
        self.dataset = dataset
        self.directory = directory
        self.splits = dict(zip(SPLITS, dataset.split_scans(test_from), strict=True))
        self.cutoff = dataset.cutoff(test_from)
        self.features = tuple(dataset.spec.features)
        self.domains: tuple[str, ...] = ()
        self.from_events = {one.name for one in self.features if dataset.source_of(one.name) == "events"}

    def run(self, min_count: int) -> None:
        counts = {name: self._domain_counts(name) for name in SPLITS}
        if not counts["train"]:
            raise BadInput(f"{self.dataset.dir}: no event falls into the training window", "choose a later --test-from")
        self.domains = self._domains(counts)
        sides = self._sides(self.domains)
        declared = (*self.features, *([HISTORY_SPEC] if self._needs_history() else []))
        train_rows = sum(counts["train"].values())
        schema = freeze(declared, self.domains, self.splits["train"], train_rows, sides.frames, min_count)
        schema.save(self.directory / "schema")
        sides.users.save(self.directory / "users")
        sides.ads.save(self.directory / "ads")
        writer = TableWriter(self.directory, schema, sides)
        writer.entities()
        offsets = {name: self._offsets(schema, counts[name]) for name in SPLITS}
        tally = Tally(len(schema.domains), len(sides.ads), self._bids_per_event())
        for name in SPLITS:
            for written in writer.events(name, self._events(name), offsets[name]):
                if name == "train":
                    tally.add(written)
        tally.save(self.directory)
        if self._needs_history():
            writer.history(SPLITS, self.dataset.spec.timestamp is not None)
        self._catalogue(schema, sides, tally)
        if not self.dataset.spec.positives_only:  # without impressions there is no rate
            timezone = self.dataset.spec.timezone if self.dataset.spec.timestamp else None
            write_statistics(self.directory, schema, SPLITS, timezone).save(self.directory / "schema")
        candidates = [name for name in ("valid", "test") if self._candidates(name, schema, sides)]
        body = {
            "name": self.dataset.spec.name,
            "digest": self.dataset.digest(),
            "cutoff": self.cutoff.isoformat() if self.cutoff else None,
            "timezone": self.dataset.spec.timezone,
            "positives_only": self.dataset.spec.positives_only,
            "has_time": self.dataset.spec.timestamp is not None,
            "offsets": {name: [int(one) for one in offsets[name]] for name in SPLITS},
            "candidates": candidates,
            "ads_listed": self.dataset.ad_domains() is not None,
            "min_count": min_count,
            "left_out": {
                name: {one: n for one, n in counts[name].items() if one not in self.domains} for name in ("valid", "test")
            },
        }
        write_json(self.directory / "tables.json", body)

    def _needs_history(self) -> bool:
        """Positives-only data without a history of ads gets one from the training positives. Not where negatives are logged:
        leaving a row's own ad out of its history would then tell positives from negatives."""
        declared = any(one.kind == "sequence" and one.of == AD_ID for one in self.features)
        return self.dataset.spec.positives_only and not declared

    def _domain_counts(self, split: str) -> dict[str, int]:
        frame = self.splits[split].group_by("domain").agg(pl.len().alias("n"), pl.col("label").is_nan().sum().alias("bad"))
        frame = frame.with_columns(pl.col("bad").fill_null(0))
        rows = frame.collect(engine="streaming")
        bad = int(rows["bad"].sum())
        if bad:
            raise BadInput(f"{self.dataset.dir}/events: the label is NaN in {bad} rows of the {split} split", "drop or mend them")
        return {str(domain): int(n) for domain, n in rows.select("domain", "n").iter_rows()}

    def _domains(self, counts: dict[str, dict[str, int]]) -> tuple[str, ...]:
        """The domains of the training window. A later event of another domain is left out: no model could have learned it, and
        no bundle can answer for it."""
        return tuple(natural_order(sorted(counts["train"])))

    def _offsets(self, schema: FeatureSchema, counts: dict[str, int]) -> np.ndarray[Any, Any]:
        return np.cumsum([0, *(counts.get(name, 0) for name in schema.domains)])

    def _bids_per_event(self) -> bool:
        """Only when no table of ads carries the bid."""
        frames = [frame for frame in (self.dataset.ad_domains(), self.dataset.ads()) if frame is not None]
        in_tables = any("bid" in frame.collect_schema() for frame in frames)
        return not in_tables and "bid" in self.splits["train"].collect_schema()

    def _events(self, split: str) -> pl.LazyFrame:
        context = [one.name for one in self.features if one.side == "context"]
        optional = [one for one in ("timestamp", "bid") if one in self.splits[split].collect_schema()]
        known = self.splits[split].filter(pl.col("domain").is_in(self.domains))
        return known.select("user_id", "ad_id", "domain", "label", *optional, *context)

    def _sides(self, domains: tuple[str, ...]) -> Sides:
        users, user_weights = self._ids(USER_ID, self.dataset.users(), self.dataset.user_domains())
        ads, ad_weights = self._ids(AD_ID, self.dataset.ads(), self.dataset.ad_domains())
        frames: dict[Side, pl.LazyFrame] = {
            "user": self._frame("user", user_weights.with_row_index(ROW).lazy(), (USER_ID,)),
            "ad": self._frame("ad", ad_weights.with_row_index(ROW).lazy(), (AD_ID,)),
        }
        for side, key, weights in (("user_domain", USER_ID, user_weights), ("ad_domain", AD_ID, ad_weights)):
            pair = cast(Side, side)
            if any(one.side == pair for one in self.features):
                frames[pair] = self._frame(pair, self._pairs(pair, key, weights, domains), (key, "domain"))
        return Sides(users, ads, domains, frames)

    def _ids(self, key: str, *tables: pl.LazyFrame | None) -> tuple[IdTable, pl.DataFrame]:
        """Every id of events, side tables and candidate lists; most impressions in training first, then by id."""
        train = self.splits["train"].group_by(key).agg(pl.len().cast(pl.Int64).alias(WEIGHT))
        others = [self.splits[name].select(pl.col(key).unique()) for name in ("valid", "test")]
        others += [one.select(pl.col(key).unique()) for one in tables if one is not None]
        for name in ("valid", "test"):
            lists = self.dataset.candidates(name)
            if lists is not None:
                column = pl.col("ad_ids").list.explode().alias(key) if key == AD_ID else pl.col(key)
                others.append(lists.select(column.cast(pl.String).unique()))
        unseen = [one.with_columns(pl.lit(0, dtype=pl.Int64).alias(WEIGHT)) for one in others]
        every = pl.concat([train, *unseen]).filter(pl.col(key).is_not_null()).group_by(key).agg(pl.col(WEIGHT).sum())
        ids = every.collect(engine="streaming").sort([WEIGHT, key], descending=[True, False])
        return IdTable(ids[key]), ids

    def _pairs(self, side: Side, key: str, ids: pl.DataFrame, domains: tuple[str, ...]) -> pl.LazyFrame:
        """(id, domain) keys of a per-domain side, with training impressions and their place in the (id, domain) grid."""
        train = self.splits["train"].group_by(key, "domain").agg(pl.len().cast(pl.Int64).alias(WEIGHT))
        table = self.dataset.user_domains() if side == "user_domain" else self.dataset.ad_domains()
        frames = [train, *([table.select(key, "domain")] if table is not None else [])]
        if any(one.side == side and one.name in self.from_events for one in self.features):
            frames += [self.splits[name].select(key, "domain").unique() for name in ("valid", "test")]
        keys = pl.concat(frames, how="diagonal_relaxed").group_by(key, "domain").agg(pl.col(WEIGHT).sum())
        rows = ids.select(key).with_row_index(ROW).lazy()
        order = pl.DataFrame({"domain": domains}, schema={"domain": pl.String}).with_row_index(DOMAIN).lazy()
        return keys.join(rows, on=key).join(order, on="domain")

    def _frame(self, side: Side, keys_frame: pl.LazyFrame, keys: tuple[str, ...]) -> pl.LazyFrame:
        """keys_frame with every feature of the side beside it: from the side's table, else the last value in events."""
        specs = [one for one in self.features if one.side == side]
        table = {
            "user": self.dataset.users,
            "ad": self.dataset.ads,
            "user_domain": self.dataset.user_domains,
            "ad_domain": self.dataset.ad_domains,
        }[side]()
        frame = keys_frame
        stored = [one.name for one in specs if one.name not in self.from_events]
        if stored and table is not None:
            frame = frame.join(table.select(*keys, *stored), on=list(keys), how="left")
        elif stored:
            raise BadInput(f"{self.dataset.dir / SIDE_TABLES[side]} is missing", f"feature {stored[0]!r} is read from it")
        for one in specs:
            if one.name in self.from_events:
                frame = frame.join(self._known_value(one, keys).lazy(), on=list(keys), how="left")
        return frame

    def _known_value(self, spec: FeatureSpec, keys: tuple[str, ...]) -> pl.DataFrame:
        """A feature found in events: its last value within training; for who is not there, the first one after it."""
        last = self._one_value(self.splits["train"], spec.name, keys, latest=True)
        for name in ("valid", "test"):
            later = self._one_value(self.splits[name], spec.name, keys, latest=False)
            last = pl.concat([last, later.join(last, on=list(keys), how="anti")], how="vertical_relaxed")
        return last

    def _one_value(self, events: pl.LazyFrame, feature: str, keys: tuple[str, ...], latest: bool) -> pl.DataFrame:
        """Merged batch by batch, so that memory holds one value a key. Without a timestamp, file order is time."""
        time = pl.col("timestamp") if "timestamp" in events.collect_schema() else pl.lit(0)
        narrow = events.select(*keys, time.alias("time"), feature).filter(pl.col(feature).is_not_null())
        kept: pl.DataFrame | None = None
        for batch in narrow.collect_batches(chunk_size=CHUNK_ROWS, engine="streaming"):
            joined = batch if kept is None else pl.concat([kept, batch])
            grouped = joined.sort("time", maintain_order=True).group_by(list(keys), maintain_order=True)
            kept = grouped.agg(pl.all().last() if latest else pl.all().first())
        return (kept if kept is not None else narrow.head(0).collect()).drop("time")

    def _catalogue(self, schema: FeatureSchema, sides: Sides, tally: Tally) -> None:
        """bid (D, A) and active (D, A): from ad_domains.parquet where it speaks, else ads.parquet, else events."""
        shape = (len(schema.domains), len(sides.ads))
        bid = tally.mean_bid()
        ads = self.dataset.ads()
        if ads is not None and "bid" in ads.collect_schema():
            for batch in ads.select(AD_ID, "bid").drop_nulls().collect_batches(chunk_size=CHUNK_ROWS, engine="streaming"):
                bid[:, sides.ads.find(batch[AD_ID].to_list())] = batch["bid"].to_numpy()
        listed = self.dataset.ad_domains()
        listed = listed.filter(pl.col("domain").is_in(self.domains)) if listed is not None else None
        active = np.zeros(shape, dtype=bool) if listed is not None else tally.impressions > 0
        if listed is not None:
            for batch in listed.collect_batches(chunk_size=CHUNK_ROWS, engine="streaming"):
                ad_rows = sides.ads.find(batch[AD_ID].to_list())
                domains = domain_numbers(schema, batch["domain"])
                on = batch["active"].fill_null(True).to_numpy() if "active" in batch.columns else np.ones(len(batch), dtype=bool)
                active[domains, ad_rows] = on
                if "bid" in batch.columns:
                    given = batch["bid"].is_not_null().to_numpy()
                    bid[domains[given], ad_rows[given]] = batch["bid"].drop_nulls().to_numpy()
        save_array(self.directory / "bid.npy", bid)
        save_array(self.directory / "active.npy", active)

    def _candidates(self, split: str, schema: FeatureSchema, sides: Sides) -> bool:
        """user_row (n,), domain (n,), ads (n, C) int32 with -1 after the end of a shorter list."""
        lists = self.dataset.candidates(split)
        if lists is None:
            return False
        lists = lists.filter(pl.col("domain").cast(pl.String).is_in(self.domains))
        width = int(lists.select(pl.col("ad_ids").list.len().max()).collect(engine="streaming").item() or 0)
        users, domains, rows = [], [], []
        for batch in lists.collect_batches(chunk_size=CHUNK_ROWS // 10, engine="streaming"):
            lengths = batch["ad_ids"].list.len().to_numpy()
            ads = np.full((len(batch), width), -1, dtype=np.int32)
            ads[np.arange(width) < lengths[:, None]] = sides.ads.find(batch["ad_ids"].explode().cast(pl.String).to_list())
            users.append(sides.users.find(batch["user_id"].cast(pl.String).to_list()).astype(np.int32))
            domains.append(domain_numbers(schema, batch["domain"].cast(pl.String)).astype(np.int16))
            rows.append(ads)
        folder = self.directory / "candidates" / split
        for name, parts in (("user_row", users), ("domain", domains), ("ads", rows)):
            save_array(folder / f"{name}.npy", np.concatenate(parts))
        return True
