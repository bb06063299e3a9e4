"""The arrays of a Tables directory, filled chunk by chunk through the schema's encode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from contracts.files import load_array, save_array
from contracts.ids import IdTable
from contracts.schema import AD_ID, Encoded, FeatureSchema, Side
from trainer.history import history_from_positives

CHUNK_ROWS = 100_000
ROW, DOMAIN = "mdrec_row", "mdrec_domain"  # an entity's row and domain number, carried beside its features
Array = np.ndarray[Any, Any]


@dataclass
class Sides:
    """Everything about the entities that is known before a value is encoded."""

    users: IdTable
    ads: IdTable
    domains: tuple[str, ...]
    frames: dict[Side, pl.LazyFrame]


class Written(NamedTuple):
    """One chunk of events as written: domain, ad_row, label (n,) each, and the frame it came from."""

    domain: Array
    ad_row: Array
    label: Array
    frame: pl.DataFrame


class Tally:
    """Impressions, positives and bids per domain and ad, over the training events."""

    def __init__(self, domains: int, ads: int, with_bids: bool) -> None:
        self.impressions = np.zeros((domains, ads), dtype=np.int64)
        self.positives = np.zeros((domains, ads), dtype=np.int64)
        self.bids = np.zeros((domains, ads)) if with_bids else None

    def add(self, written: Written) -> None:
        at = (written.domain, written.ad_row)
        np.add.at(self.impressions, at, 1)
        np.add.at(self.positives, at, (written.label > 0).astype(np.int64))
        if self.bids is not None:
            np.add.at(self.bids, at, written.frame["bid"].fill_null(1.0).to_numpy())

    def mean_bid(self) -> Array:
        """(D, A) float32: the mean bid of a domain's impressions of an ad, else of all its impressions, else 1."""
        bid = np.ones(self.impressions.shape, dtype=np.float32)
        if self.bids is None:
            return bid
        shown, total = self.impressions.sum(axis=0), self.bids.sum(axis=0)
        bid[:, shown > 0] = (total[shown > 0] / shown[shown > 0]).astype(np.float32)
        here = self.impressions > 0
        bid[here] = (self.bids[here] / self.impressions[here]).astype(np.float32)
        return bid

    def save(self, directory: Path) -> None:
        save_array(directory / "impressions.npy", self.impressions)
        save_array(directory / "positives.npy", self.positives)


class TableWriter:
    """Fills memory-mapped arrays through the schema's encode."""

    def __init__(self, directory: Path, schema: FeatureSchema, sides: Sides) -> None:
        self.directory = directory
        self.schema = schema
        self.sides = sides

    def entities(self) -> None:
        users, ads, domains = len(self.sides.users), len(self.sides.ads), len(self.sides.domains)
        self._side("user", (users,), (ROW,))
        self._side("ad", (ads,), (ROW,))
        self._side("user_domain", (users, domains), (ROW, DOMAIN))
        self._side("ad_domain", (domains, ads), (DOMAIN, ROW))

    def _side(self, side: Side, shape: tuple[int, ...], place: tuple[str, ...]) -> None:
        code_width, dense_width = self.schema.width(side)
        codes = _array(self.directory / f"{side}_codes.npy", np.int32, (*shape, code_width))
        dense = _array(self.directory / f"{side}_dense.npy", np.float32, (*shape, dense_width))
        if side not in self.sides.frames:
            return
        for batch in self.sides.frames[side].collect_batches(chunk_size=CHUNK_ROWS, engine="streaming"):
            encoded = _encode(self.schema, side, batch)
            where = tuple(batch[one].to_numpy() for one in place)
            codes[where] = encoded.codes
            dense[where] = encoded.dense

    def history(self, splits: Sequence[str], has_time: bool) -> None:
        """history_<split>.npy (U, L): each user's ads by the positives of all splits up to that one."""
        ad_id = next(one.start for one in self.schema.block("ad").fields if one.name == AD_ID)
        code_of_ad = load_array(self.directory / "ad_codes.npy")[:, ad_id]
        parts: list[list[Array]] = []
        for split in splits:
            parts.append([load_array(self.directory / split / f"{one}.npy") for one in ("user_row", "ad_row", "time")])
            user_row, ad_row, time = (np.concatenate(column) for column in zip(*parts, strict=True))
            users = len(self.sides.users)
            history = history_from_positives(user_row, code_of_ad[ad_row], users, time if has_time else None)
            save_array(self.directory / f"history_{split}.npy", history)

    def events(self, split: str, frame: pl.LazyFrame, offsets: Array) -> Iterator[Written]:
        """Writes one split, and yields what it wrote chunk by chunk. offsets: (D + 1,), each domain's first row."""
        n = int(offsets[-1])
        code_width, dense_width = self.schema.width("context")
        folder = self.directory / split
        kinds = {
            "user_row": (np.int32, ()),
            "ad_row": (np.int32, ()),
            "domain": (np.int16, ()),
            "label": (np.float32, ()),
            "time": (np.int64, ()),
            "context_codes": (np.int32, (code_width,)),
            "context_dense": (np.float32, (dense_width,)),
        }
        arrays = {name: _array(folder / f"{name}.npy", dtype, (n, *tail)) for name, (dtype, tail) in kinds.items()}
        cursor = offsets[:-1].copy()
        for batch in frame.collect_batches(chunk_size=CHUNK_ROWS, engine="streaming"):
            domain = domain_numbers(self.schema, batch["domain"])
            order = np.argsort(domain, kind="stable")
            sizes = np.bincount(domain, minlength=len(cursor))
            at = np.empty(len(batch), dtype=np.int64)
            starts = np.cumsum(sizes) - sizes
            at[order] = np.arange(len(batch)) - np.repeat(starts, sizes) + np.repeat(cursor, sizes)
            cursor += sizes
            encoded = _encode(self.schema, "context", batch)
            ad_row = self.sides.ads.find(batch["ad_id"].to_list())
            label = batch["label"].to_numpy()
            values = {
                "user_row": self.sides.users.find(batch["user_id"].to_list()),
                "ad_row": ad_row,
                "domain": domain,
                "label": label,
                "time": batch["timestamp"].dt.epoch("ms").to_numpy() if "timestamp" in batch.columns else 0,
                "context_codes": encoded.codes,
                "context_dense": encoded.dense,
            }
            for name, value in values.items():
                arrays[name][at] = value
            yield Written(domain, ad_row, label, batch)


def _encode(schema: FeatureSchema, side: Side, batch: pl.DataFrame) -> Encoded:
    columns = {one.name: batch[one.name].to_list() for one in schema.of_side(side) if one.name in batch.columns}
    return schema.encode(side, columns, len(batch))


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Array:
    """A new zero-filled array on disk; numpy cannot map an empty one, so that is written at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if 0 in shape:
        save_array(path, np.zeros(shape, dtype=dtype))
        return np.zeros(shape, dtype=dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def domain_numbers(schema: FeatureSchema, names: pl.Series) -> Array:
    return names.replace_strict(schema.domain_index, return_dtype=pl.Int64).to_numpy()
