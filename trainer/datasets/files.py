"""Finding source files by their official names, plain or gzipped, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import polars as pl

from contracts.errors import BadInput

_ENDINGS = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def find(directory: Path, *patterns: str) -> list[Path]:
    """Files whose name without its ending matches one of the glob patterns, at any depth, sorted."""
    if not directory.is_dir():
        raise BadInput(f"{directory} is no directory", "name the folder that holds the downloaded files")
    found = sorted({path for pattern in patterns for path in directory.rglob(pattern + ".*") if path.name.endswith(_ENDINGS)})
    for one, other in pairwise(found):
        if one.parent == other.parent and one.name.partition(".")[0] == other.name.partition(".")[0]:
            raise BadInput(f"{directory} holds the same table twice: {one.name} and {other.name}", "leave one of them")
    return found


def find_one(directory: Path, *patterns: str) -> Path:
    """Raises BadInput saying which names would do."""
    found = find(directory, *patterns)
    if not found:
        raise BadInput(f"{directory} holds none of {', '.join(one + '.csv(.gz)' for one in patterns)}", "check --from")
    return found[0]


def scan(path: Path) -> pl.LazyFrame:
    """A table with a header. CSV columns are strings, so no id is ever a float; TSV knows no quotes."""
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    if ".tsv" in path.name:
        return pl.scan_csv(path, separator="\t", quote_char=None, infer_schema=False)
    return pl.scan_csv(path, infer_schema=False)


def require_columns(path: Path, frame: pl.LazyFrame, needed: Sequence[str]) -> None:
    missing = [one for one in needed if one not in frame.collect_schema()]
    if missing:
        raise BadInput(f"{path}: column {missing[0]!r} is missing", "is this the official file of that name?")
