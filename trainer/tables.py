"""Tables: a dataset as memory-mapped model inputs. Built once (trainer/tabulate.py), read by every model, measured by evaluate.

users, ads: row numbers <-> external ids. A split's events stand domain by domain, so a domain is one range of rows.
Entities are encoded once each; a batch gathers them: what a model reads in training is what a server reads from its ad table
and its user rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.errors import BadInput
from contracts.files import load_array, read_json
from contracts.ids import IdTable
from contracts.schema import AD_ID, BLOCK_SIDES, FeatureSchema, Side
from trainer.datasets.canonical import Dataset
from trainer.freeze import MIN_COUNT
from trainer.history import HISTORY, leave_one_out
from trainer.layers import Inputs
from trainer.statistics import PAIR, Owner
from trainer.statistics_writer import SIDES
from trainer.tabulate import SPLITS, tabulate

Rows = NDArray[Any]
Codes = tuple[NDArray[np.int32], NDArray[np.float32]]
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Batch:
    """inputs: B rows; label_B float32; user_row_B, ad_row_B int64; time_B int64, epoch ms UTC (0 without a timestamp)."""

    inputs: Inputs
    label: Tensor
    user_row: Tensor
    ad_row: Tensor
    time: Tensor

    def to(self, device: torch.device) -> Batch:
        moved = [None if one is None else one.to(device) for one in self.inputs]
        rest = {one.name: getattr(self, one.name).to(device) for one in fields(self) if one.name != "inputs"}
        return Batch(Inputs(*moved), **rest)  # type: ignore[arg-type]


class Candidates(NamedTuple):
    """Lists to rank. user_row: (n,) int32; domain: (n,) int16; ads: (n, C) int32 ad rows, -1 after a shorter list's end."""

    user_row: NDArray[np.int32]
    domain: NDArray[np.int16]
    ads: NDArray[np.int32]


class Tables:
    """A directory that `build` wrote. Everything in it is read through the page cache; nothing grows with the log.

    as_of: the last split that is known: histories are made of positives up to it, statistics count up to it, ads may be shown
    that were seen up to it. refreshed: rows of later splits read the statistics of their own day, as if a night had passed
    before each day.
    """

    def __init__(self, directory: Path, as_of: str = "train", refreshed: bool = False) -> None:
        self.directory = directory
        self.as_of = as_of
        self.refreshed = refreshed
        self._body = read_json(directory / "tables.json")
        self.schema = FeatureSchema.load(directory / "schema")
        self.users = IdTable.load(directory / "users")
        self.ads = IdTable.load(directory / "ads")
        self.name: str = self._body["name"]
        self.digest: str = self._body["digest"]
        self.timezone: str = self._body["timezone"]
        self.positives_only: bool = self._body["positives_only"]
        self.has_time: bool = self._body["has_time"]
        self._offsets: dict[str, list[int]] = self._body["offsets"]
        self._sides = {
            side: (load_array(directory / f"{side}_codes.npy"), load_array(directory / f"{side}_dense.npy"))
            for side in ("user", "ad", "user_domain", "ad_domain")
        }
        self._history = _history(self.schema, directory, as_of)
        self._statistics = {one: load_array(directory / f"statistics_{as_of}" / f"{one}.npy") for one in self._counted_sides()}
        self._bid, self._active = load_array(directory / "bid.npy"), load_array(directory / "active.npy")
        self.impressions = load_array(directory / "impressions.npy")  # (D, A) int64, training events
        self.positives = load_array(directory / "positives.npy")  # (D, A) int64, training events with label 1

    @classmethod
    def build(cls, dataset: Dataset, directory: Path, test_from: str | int | None = None, min_count: int = MIN_COUNT) -> Tables:
        """Split (see Dataset.split_scans), freeze the schema on the training window, encode. Raises BadInput."""
        tabulate(dataset, Path(directory), test_from, min_count)
        return cls(Path(directory))

    @classmethod
    def open(cls, directory: Path) -> Tables:
        return cls(Path(directory))

    def at(self, split: str) -> Tables:
        """The same tables with histories that reach through `split`: "valid" to judge on the test, "test" to serve."""
        return Tables(self.directory, split, self.refreshed)

    @property
    def cutoff(self) -> datetime | None:
        """Where the test begins, UTC; None when the split is not by time."""
        text = self._body["cutoff"]
        return datetime.fromisoformat(text) if text else None

    @property
    def domains(self) -> tuple[str, ...]:
        return self.schema.domains

    def split_size(self, split: str) -> int:
        return self._offsets[split][-1]

    def domain_range(self, split: str, domain: int) -> range:
        """The event rows of one domain, in the log's order."""
        return range(self._offsets[split][domain], self._offsets[split][domain + 1])

    def domain_rows(self, split: str, domain: int) -> NDArray[np.int64]:
        rows = self.domain_range(split, domain)
        return np.arange(rows.start, rows.stop)

    def column(self, split: str, name: str) -> NDArray[Any]:
        """One whole column of a split, memory-mapped: user_row, ad_row, domain, label, time, context_codes, context_dense."""
        return self._events[split][name]

    def batch(self, split: str, indices: Rows) -> Batch:
        """The events of a split at `indices`. Rows that a history was made from do not see their own ad in it, and rows that the
        statistics counted read those of the day before."""
        events = self._events[split]
        user_row, ad_row, domain = (np.asarray(events[one][indices], dtype=np.int64) for one in ("user_row", "ad_row", "domain"))
        user_codes, user_dense = self.user_block(user_row, domain)
        ad_codes, ad_dense = self.ad_block(ad_row, domain)
        known = SPLITS.index(split) <= SPLITS.index(self.as_of)
        if self._statistics and (known or self.refreshed):
            self._of_the_day(events["statistics"][indices], user_codes, ad_codes)
        if known:
            user_codes = leave_one_out(self.schema, user_codes, ad_codes[:, self._ad_id_column])
        inputs = Inputs(
            *_tensors(user_codes, user_dense, events["context_codes"][indices], events["context_dense"][indices]),
            *_tensors(ad_codes, ad_dense, domain),
        )
        return Batch(inputs, *_tensors(events["label"][indices], user_row, ad_row, events["time"][indices]))

    def user_block(self, user_rows: Rows, domain: int | Rows) -> Codes:
        """The user block in a domain (one for all rows, or one a row): codes (B, Iu) int32, dense (B, Nu) float32."""
        dense = self._sides["user"][1]
        domain_codes, domain_dense = self._sides["user_domain"]
        return (
            self._joined("user", self._user_codes(user_rows), user_rows, domain_codes[user_rows, domain], (user_rows, domain)),
            np.concatenate([dense[user_rows], domain_dense[user_rows, domain]], axis=1),
        )

    def ad_block(self, ad_rows: Rows, domain: int | Rows) -> Codes:
        """The ad block in a domain: codes (B, Ia) int32, dense (B, Na) float32."""
        codes, dense = self._sides["ad"]
        domain_codes, domain_dense = self._sides["ad_domain"]
        return (
            self._joined("ad", codes[ad_rows], ad_rows, domain_codes[domain, ad_rows], (domain, ad_rows)),
            np.concatenate([dense[ad_rows], domain_dense[domain, ad_rows]], axis=1),
        )

    def user_sides(self, user_rows: Rows) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """codes (B, I), dense (B, N) of side user; domain_codes (B, D, Id), domain_dense (B, D, Nd) of side user_domain."""
        dense, (domain_codes, domain_dense) = self._sides["user"][1], self._sides["user_domain"]
        codes, inside = self._user_codes(user_rows), domain_codes[user_rows]
        if self._statistics:
            codes = np.concatenate([codes, self._statistics["user"][user_rows]], axis=1, dtype=np.int32)
            inside = np.concatenate([inside, self._statistics["user_domain"][user_rows]], axis=2, dtype=np.int32)
        return codes, dense[user_rows], inside, domain_dense[user_rows]

    def eligible(self, domain: int) -> NDArray[np.int32]:
        """Ad rows that may be shown: active in ad_domains.parquet where there is one, else seen there up to `as_of`."""
        return self._eligible[domain]

    def bid(self, domain: int) -> NDArray[np.float32]:
        """(A,) float32, currency units a click."""
        return np.asarray(self._bid[domain])

    def popular(self, domain: int) -> NDArray[np.int32]:
        """Eligible ads, best first: by positives in the domain; ties, and domains without any, by positives elsewhere."""
        rows = self.eligible(domain)
        own, everywhere = self.positives[domain][rows], self.positives[:, rows].sum(axis=0)
        return rows[np.lexsort((rows, -everywhere, -own))]

    def candidates(self, split: str) -> Candidates | None:
        if split not in self._body["candidates"]:
            return None
        folder = self.directory / "candidates" / split
        return Candidates(*(load_array(folder / f"{name}.npy") for name in Candidates._fields))

    def domain_number(self, name: str) -> int:
        """Raises BadInput naming the known domains."""
        if name not in self.schema.domain_index:
            raise BadInput(f"unknown domain {name!r}", f"known: {', '.join(self.domains)}")
        return self.schema.domain_index[name]

    def _user_codes(self, user_rows: Rows) -> NDArray[np.int32]:
        codes: NDArray[np.int32] = self._sides["user"][0][user_rows]
        if self._history is not None:
            columns, history = self._history
            codes = np.array(codes)
            codes[:, columns] = history[user_rows]
        return codes

    def _counted_sides(self) -> tuple[Side, ...]:
        return SIDES if self.schema.statistics else ()

    def _joined(self, owner: Owner, codes: Rows, rows: Any, domain_codes: Rows, places: Any) -> NDArray[np.int32]:
        """The code columns of a block: the entity's own, its statistics, those of its domain, its statistics there."""
        if not self._statistics:
            return np.concatenate([codes, domain_codes], axis=1)
        own, inside = self._statistics[owner][rows], self._statistics[PAIR[owner]][places]
        return np.concatenate([codes, own, domain_codes, inside], axis=1, dtype=np.int32)

    def _of_the_day(self, found_BS: Rows, user_codes: Rows, ad_codes: Rows) -> None:
        """Writes what each row may know over what is known at the end of `as_of`."""
        at = 0
        for side in SIDES:
            block = user_codes if side in BLOCK_SIDES["user"] else ad_codes
            columns = self._statistics_columns[side]
            block[:, columns] = found_BS[:, at : at + columns.stop - columns.start]
            at += columns.stop - columns.start

    @cached_property
    def _statistics_columns(self) -> dict[Side, slice]:
        """Where the statistics of each side stand in its block's codes."""
        found: dict[Side, slice] = {}
        for name in ("user", "ad"):
            fields = [one for one in self.schema.block(name).fields if one.name in self.schema.statistics]
            for side in BLOCK_SIDES[name]:
                starts = [one.start for one in fields if one.side == side]
                found[side] = slice(min(starts), max(starts) + 1)
        return found

    @cached_property
    def _eligible(self) -> list[NDArray[np.int32]]:
        active = np.array(self._active)
        for split in () if self._body["ads_listed"] else SPLITS[1 : SPLITS.index(self.as_of) + 1]:
            active[self._events[split]["domain"], self._events[split]["ad_row"]] = True
        return [np.flatnonzero(row).astype(np.int32) for row in active]

    @cached_property
    def _ad_id_column(self) -> int:
        return next(one.start for one in self.schema.block("ad").fields if one.name == AD_ID)

    @cached_property
    def _events(self) -> dict[str, dict[str, NDArray[Any]]]:
        names = ["user_row", "ad_row", "domain", "label", "time", "context_codes", "context_dense"]
        names += ["statistics"] if self._statistics else []
        return {split: {name: load_array(self.directory / split / f"{name}.npy") for name in names} for split in SPLITS}


def _history(schema: FeatureSchema, directory: Path, as_of: str) -> tuple[slice, NDArray[np.int32]] | None:
    """Where the derived history stands in the user codes, and what it is; None when the data bring their own or none."""
    path = directory / f"history_{as_of}.npy"
    if not path.is_file():
        return None
    return next(one.columns for one in schema.block("user").fields if one.name == HISTORY), load_array(path)


def _tensors(*arrays: NDArray[Any]) -> list[Tensor]:
    """Copies where memory is mapped read-only: torch wants to own what it reads."""
    return [torch.from_numpy(np.array(one) if not one.flags.writeable else np.ascontiguousarray(one)) for one in arrays]
