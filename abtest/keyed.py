"""Rows in parts of their users, with 64-bit keys where the ledger and its units have strings.

Joining and counting by strings is what reading a ledger costs. A key is a hash, and that of several columns is the XOR of
hashes with a seed for each: two different things among n have one key with a chance below n^2 / 2^65, that is .0003 for the
10^8 keys of 10^8 events, and what it would do is to count an event or a request too few. Hashes hold within one version of
polars, so keys are never kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

_SEEDS = {name: seed for seed, name in enumerate(("user_id", "request_id", "ad_id", "event_id", "domain", "arms"))}
_ROWS_A_READ = 4_000_000  # rows in memory at a time, of the ledger or of units: about 300 MiB
_ROWS_A_PART = 250_000  # rows joined at a time: what is looked up at random then fits a processor's cache
_READ, _PART = "read", "part"


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


def by_users(frames: Sequence[pl.LazyFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The frames as one, in parts that have all rows of their users, `user` (UInt64) in place of user_id. rows: as many as they
    have, or more. They are read once for each _ROWS_A_READ of them, one by one: a scan of all holds many of them at once."""
    reads, parts = _cut(rows)
    keyed = [frame.with_columns(user=_key("user_id")).drop("user_id") for frame in frames]
    part = (pl.col("user") // reads % parts).cast(pl.UInt32).alias(_PART)
    for read in range(reads):
        found = [frame.filter(pl.col("user") % reads == read).collect(engine="streaming") for frame in keyed]
        yield from pl.concat(found).with_columns(part).partition_by(_PART, include_key=False) if found else ()


def split(answers: pl.LazyFrame, outcomes: pl.LazyFrame, rows: int, place: Path) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """EXPOSURE and FEEDBACK rows in parts that have all rows of their users, in the order that they had. They are read once,
    and lie under `place` meanwhile. rows: as many as both have, or more.

    Answers: user_id; time; request, of the user's request; cell; ads (List of UInt64) and bids (List of Float64).
    Outcomes: shown, which is an answer's request ^ an ad of it; event, of the user's event; click, conversion (Boolean);
    value; received."""
    reads, parts = _cut(rows)
    user, ad = _key("user_id"), pl.element().struct
    cut = ((user % reads).cast(pl.UInt32).alias(_READ), (user // reads % parts).cast(pl.UInt32).alias(_PART))
    keyed = {
        "answers": answers.select(
            *cut, "user_id", "time", request=user ^ _key("request_id"), cell=_cell(),
            ads=pl.col("ads").list.eval(ad.field("ad_id").hash(_SEEDS["ad_id"])), bids=pl.col("ads").list.eval(ad.field("bid")),
        ),
        "outcomes": outcomes.select(
            *cut, "value", "received", shown=user ^ _key("request_id") ^ _key("ad_id"), event=user ^ _key("event_id"),
            click=pl.col("type") == "click", conversion=pl.col("type") == "conversion",
        ),
    }  # fmt: skip
    for name, frame in keyed.items():
        frame.sink_ipc(pl.PartitionBy(place / name, key=_READ, include_key=False), mkdir=True)
    empty = {name: pl.DataFrame(schema=frame.drop(_READ).collect_schema()) for name, frame in keyed.items()}
    for read in range(reads):
        found = {name: _take(place / name / f"{_READ}={read}", empty[name]) for name in keyed}
        for part in range(parts):
            asked, came = (found[name].get((part,), empty[name].drop(_PART)) for name in keyed)
            yield asked, came


def _cut(rows: int) -> tuple[int, int]:
    """How often to read, and into how many parts to cut what was read."""
    return max(-(-rows // _ROWS_A_READ), 1), max(-(-min(rows, _ROWS_A_READ) // _ROWS_A_PART), 1)


def _take(folder: Path, empty: pl.DataFrame) -> dict[tuple[object, ...], pl.DataFrame]:
    """Parts by number of what lies in the folder, which goes. Names of its files are in the order of their rows."""
    found = pl.concat([empty, *(pl.read_ipc(path) for path in sorted(folder.glob("*.ipc")))])
    shutil.rmtree(folder, ignore_errors=True)
    return found.partition_by(_PART, as_dict=True, include_key=False)


def _key(column: str) -> pl.Expr:
    return pl.col(column).hash(_SEEDS[column])


def _cell() -> pl.Expr:
    return _key("domain") ^ _key("arms")


def _arms_text() -> pl.Expr:
    one = pl.element().struct
    line = pl.struct(one.field("experiment"), one.field("arm")).struct.json_encode()
    return pl.col("arms").list.eval(line).list.sort().list.join("\n").fill_null("")
