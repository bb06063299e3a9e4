"""The ledger in parts of its users, on disk, with 64-bit keys where it has strings: what units are counted from.

Joining and counting by strings is what reading a ledger costs. A key is a hash, and that of several columns is the XOR of
hashes with a seed for each: two different things among n have one key with a chance below n^2 / 2^65, that is .0003 for the
10^8 keys of 10^8 events, and what it would do is to count an event or a request too few. A user has its rows in one part.
Hashes hold within one version of polars, so keys are never kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

_SEEDS = {name: seed for seed, name in enumerate(("user_id", "request_id", "ad_id", "event_id", "domain", "arms"))}
_PART = "part"


@dataclass(frozen=True)
class Cells:
    """What the rows of one unit have in common besides the day and the user. key: (n,) UInt64, of the column `cell`;
    code_of_key: (n,) UInt32, its row in names; names: domain and arms of UNITS."""

    key: pl.Series
    code_of_key: pl.Series
    names: pl.DataFrame

    @classmethod
    def of(cls, answers: pl.LazyFrame) -> Cells:
        """answers: EXPOSURE. Arms as text are made once for each of their lists, of which there are few."""
        found = answers.select("domain", "arms", cell=_cell()).unique("cell").collect(engine="streaming")
        rows = found.select("cell", "domain", arms=_arms_text())
        names = rows.select("domain", "arms").unique(maintain_order=True).with_row_index("code")
        rows = rows.join(names, on=["domain", "arms"], nulls_equal=True)
        return cls(rows["cell"], rows["code"], names.drop("code"))

    def code(self, cell: pl.Expr) -> pl.Expr:
        return cell.replace_strict(self.key, self.code_of_key, return_dtype=pl.UInt32)


def split(answers: pl.LazyFrame, outcomes: pl.LazyFrame, parts: int, place: Path) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Write EXPOSURE and FEEDBACK rows to parts under `place`, then yield each part and remove it. Rows keep their order.

    Answers: user_id; time; request, of the user's request; cell; ads (List of UInt64) and bids (List of Float64).
    Outcomes: shown, which is an answer's request ^ an ad of it; event, of the user's event; click, conversion (Boolean);
    value; received."""
    part = (_key("user_id") % parts).cast(pl.UInt32).alias(_PART)
    ad = pl.element().struct
    keyed = {
        "answers": answers.select(
            part, "user_id", "time", request=_key("user_id") ^ _key("request_id"), cell=_cell(),
            ads=pl.col("ads").list.eval(ad.field("ad_id").hash(_SEEDS["ad_id"])), bids=pl.col("ads").list.eval(ad.field("bid")),
        ),
        "outcomes": outcomes.select(
            part, "value", "received", shown=_key("user_id") ^ _key("request_id") ^ _key("ad_id"),
            event=_key("user_id") ^ _key("event_id"), click=pl.col("type") == "click", conversion=pl.col("type") == "conversion",
        ),
    }  # fmt: skip
    for name, frame in keyed.items():
        frame.sink_ipc(pl.PartitionBy(place / name, key=_PART, include_key=False), mkdir=True)
    empty = {name: pl.DataFrame(schema=frame.drop(_PART).collect_schema()) for name, frame in keyed.items()}
    for number in range(parts):
        folders = {name: place / name / f"{_PART}={number}" for name in keyed}
        yield _read(folders["answers"], empty["answers"]), _read(folders["outcomes"], empty["outcomes"])
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path, empty: pl.DataFrame) -> pl.DataFrame:
    """Names of the files are in the order of their rows."""
    return pl.concat([empty, *(pl.read_ipc(path) for path in sorted(folder.glob("*.ipc")))], rechunk=True)


def _key(column: str) -> pl.Expr:
    return pl.col(column).hash(_SEEDS[column])


def _cell() -> pl.Expr:
    return _key("domain") ^ _key("arms")


def _arms_text() -> pl.Expr:
    one = pl.element().struct
    line = pl.struct(one.field("experiment"), one.field("arm")).struct.json_encode()
    return pl.col("arms").list.eval(line).list.sort().list.join("\n").fill_null("")
