"""What a column must be to play its role: its type, and what no row of it may hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import polars as pl

from trainer.datasets.spec import TimestampSpec

MAX_ID_BYTES = 256
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEAR_1990, _YEAR_2100 = 631_152_000, 4_102_444_800  # seconds since 1970


class Role(Enum):
    ID = "id"
    LABEL = "label"
    TIME = "timestamp"
    BID = "bid"
    FLAG = "flag"
    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class Rule:
    """broken: true for each row that breaks it."""

    broken: pl.Expr
    what: str
    remedy: str


def type_problem(role: Role, dtype: pl.DataType, time: TimestampSpec | None) -> tuple[str, str] | None:
    """(what is wrong, remedy), or None when the type will do. An all-null column has no type, and is judged by its rows."""
    if dtype == pl.Null:
        return None
    text = dtype in (pl.String, pl.Categorical, pl.Enum)
    match role:
        case Role.ID if not (dtype.is_integer() or text):
            return f"is {dtype}, not an id", "ids are integers or strings; a float would change long ids"
        case Role.LABEL if not (dtype.is_numeric() or dtype == pl.Boolean):
            return f"is {dtype}, not a label", "write it as 0 and 1"
        case Role.TIME if not (dtype.is_numeric() or dtype == pl.Datetime):
            return f"is {dtype}, not a time", "write integers since 1970 with a unit, or a Parquet timestamp"
        case Role.TIME if dtype.is_numeric() and (time is None or time.unit is None):
            return f"is {dtype} and has no unit", "write `timestamp: {column: ..., unit: ms}` (or s, us, ns)"
        case Role.NUMERIC | Role.BID if not (dtype.is_numeric() or dtype == pl.Boolean):
            return f"is {dtype}, not a number", "cast it to a number, or declare it categorical"
        case Role.FLAG if not (dtype == pl.Boolean or dtype.is_integer()):
            return f"is {dtype}, not a flag", "write it as true and false"
        case Role.CATEGORICAL if dtype.is_nested():
            return f"is {dtype}, not one value a row", "declare it `kind: sequence`, or write one value"
        case Role.SEQUENCE if not isinstance(dtype, pl.List | pl.Array):
            return f"is {dtype}, not a list", "write a list column, or declare it `kind: categorical`"
    return None


def content_rules(role: Role, name: str, dtype: pl.DataType, time: TimestampSpec | None) -> Iterator[Rule]:
    column = pl.col(name)
    match role:
        case Role.ID:
            yield Rule(column.is_null(), "null", "drop those rows, or give them an id")
            if not dtype.is_integer():
                size = column.cast(pl.String).str.len_bytes()
                yield Rule(size == 0, "empty", "drop those rows, or give them an id")
                yield Rule(size > MAX_ID_BYTES, f"longer than {MAX_ID_BYTES} bytes in UTF-8", "shorten or hash those ids")
        case Role.LABEL:
            number = column.cast(pl.Float64)
            missing = column.is_null() | number.is_nan()
            yield Rule(missing, "null or NaN", "drop those rows, or label them 0")
            yield Rule(~missing & (number != 0) & (number != 1), "neither 0 nor 1", "write the label as 0 or 1")
        case Role.TIME:
            yield Rule(column.is_null(), "null", "drop those rows, or take `timestamp` out of dataset.yaml")
            if dtype == pl.Datetime:
                outside = (column.dt.year() < 1990) | (column.dt.year() > 2100)
            else:
                scale = _PER_SECOND[time.unit] if time and time.unit else 1
                outside = (column < _YEAR_1990 * scale) | (column > _YEAR_2100 * scale)
            yield Rule(outside, "outside the years 1990 to 2100", "is the unit right?")
        case Role.NUMERIC if dtype.is_float():
            yield Rule(column.is_infinite(), "infinite", "write null when a value is unknown")
        case Role.BID:
            number = column.cast(pl.Float64)
            yield Rule(
                number.is_nan() | number.is_infinite() | (number < 0), "with no price", "a bid is 0 or more; null means 1.0"
            )
