"""`mdrec data check DIR`: everything wrong with a dataset, told before any work is done.

Each problem names file, column, number of rows and a remedy. Files are streamed one at a time: memory grows with the number
of distinct ids, never with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from contracts.errors import BadInput
from contracts.schema import FeatureSpec
from trainer.datasets.canonical import KEYS, SIDE_TABLES, Dataset, natural_order
from trainer.datasets.column_rules import Role, Rule, content_rules, type_problem
from trainer.datasets.spec import DatasetSpec, read_spec

_CANDIDATE_COLUMNS = {"user_id": Role.ID, "domain": Role.ID, "ad_ids": Role.SEQUENCE}


@dataclass(frozen=True)
class Problem:
    """file: inside the dataset. column, rows: None when the problem is not one column's, or not of rows."""

    file: str
    what: str
    remedy: str
    column: str | None = None
    rows: int | None = None

    def __str__(self) -> str:
        column = f", column {self.column!r}" if self.column else ""
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'} " if self.rows is not None else ""
        return f"{self.file}{column}: {rows}{self.what} ({self.remedy})"


@dataclass(frozen=True)
class DomainSummary:
    domain: str
    rows: int
    users: int
    ads: int
    positives: int

    @property
    def click_rate(self) -> float:
        return self.positives / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class CheckReport:
    """days: local calendar days with events, empty without a timestamp. domains: empty when there were problems."""

    name: str
    problems: tuple[Problem, ...]
    domains: tuple[DomainSummary, ...] = ()
    days: tuple[date, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def raise_if_bad(self) -> None:
        """Raises BadInput with the first problem, and how many more there are."""
        if self.problems:
            first, more = self.problems[0], len(self.problems) - 1
            told = str(first).removesuffix(f" ({first.remedy})") + (f"; and {more} more" if more else "")
            raise BadInput(told, first.remedy)

    def __str__(self) -> str:
        if self.problems:
            count = len(self.problems)
            return "\n".join([f"{self.name}: {count} problem{'' if count == 1 else 's'}", *(f"  {one}" for one in self.problems)])
        rows: list[tuple[str, ...]] = [("domain", "rows", "users", "ads", "positives", "click rate")]
        rows += [_cells(one.domain, one.rows, one.users, one.ads, one.positives) for one in self.domains]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        days = f", {len(self.days)} days from {self.days[0]} to {self.days[-1]}" if self.days else ""
        total, positives = sum(one.rows for one in self.domains), sum(one.positives for one in self.domains)
        return "\n".join([f"{self.name}: ok, {total:,} events, {positives:,} positives{days}", *table])


def check(directory: Path | str) -> CheckReport:
    """Look through a whole dataset. Raises BadInput only when dataset.yaml itself cannot be read."""
    directory = Path(directory)
    spec = read_spec(directory)
    dataset = Dataset(directory, spec)
    problems = list(_problems(dataset))
    if problems:
        return CheckReport(spec.name, tuple(problems))
    domains = _summary(dataset)
    if not any(one.rows for one in domains):
        return CheckReport(spec.name, (Problem("events/*.parquet", "hold no rows", "log some impressions first"),))
    problems = list(_one_sided(spec, domains))
    return CheckReport(spec.name, tuple(problems), domains, _days(dataset))


def _problems(dataset: Dataset) -> Iterator[Problem]:
    try:
        files = dataset.events_files()
        _ = dataset.files_fix_split
    except BadInput as error:
        yield Problem("events", error.message, error.hint)
        return
    spec, directory = dataset.spec, dataset.dir
    schemas: dict[str, pl.Schema] = {}
    tables = [directory / one for one in SIDE_TABLES.values() if (directory / one).is_file()]
    lists = sorted((directory / "candidates").glob("*.parquet"))
    for path in [*files, *tables, *lists]:
        name = path.relative_to(directory).as_posix()
        try:
            schemas[name] = pl.scan_parquet(path).collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            first_line = str(error).splitlines()[0]
            yield Problem(name, f"is not a readable Parquet file: {first_line}", "write it again")
    home = {one.name: _home(one, schemas) for one in spec.features}
    for feature in spec.features:
        if home[feature.name] is None:
            yield _nowhere(feature)
    for name, schema in schemas.items():
        here = [one for one in spec.features if home[one.name] == ("events" if name.startswith("events/") else name)]
        yield from _table_problems(directory / name, name, schema, spec, here)


def _home(feature: FeatureSpec, schemas: dict[str, pl.Schema]) -> str | None:
    """Where a feature's column stands: its side's table, else "events"; None when in neither."""
    table = SIDE_TABLES.get(feature.side, "")
    if feature.name in schemas.get(table, ()):
        return table
    in_events = any(feature.name in schema for name, schema in schemas.items() if name.startswith("events/"))
    return "events" if in_events else None


def _nowhere(feature: FeatureSpec) -> Problem:
    table = SIDE_TABLES.get(feature.side)
    where = f"{table} or events/*.parquet" if table else "events/*.parquet"
    remedy = f"write the column, or take feature {feature.name!r} out of dataset.yaml"
    return Problem(where, f"is missing; it is declared as a feature of side {feature.side}", remedy, feature.name)


def _roles(spec: DatasetSpec, name: str, schema: pl.Schema) -> list[tuple[str, Role]]:
    """The columns of one file that mdrec reads beside the features, and as what; required ones whether there or not."""
    if name.startswith("candidates/"):
        return list(_CANDIDATE_COLUMNS.items())
    roles = [(column, Role.ID) for column in _table_keys(spec, name, schema)]
    if name.startswith("events/"):
        roles = [(spec.user_id, Role.ID), (spec.ad_id, Role.ID), (spec.domain, Role.ID)]
        roles += [(spec.label, Role.LABEL)] if spec.label else []
        roles += [(spec.timestamp.column, Role.TIME)] if spec.timestamp else []
    bid = spec.bid.column if spec.bid else "bid" if name == SIDE_TABLES["ad_domain"] else ""
    roles += [(bid, Role.BID)] if bid in schema else []
    roles += [("active", Role.FLAG)] if name == SIDE_TABLES["ad_domain"] and "active" in schema else []
    return roles


def _table_keys(spec: DatasetSpec, name: str, schema: pl.Schema) -> list[str]:
    """The key columns of a side table, under the dataset's own name or else the canonical one; () for events."""
    side = next((side for side, table in SIDE_TABLES.items() if table == name), None)
    named = {"user_id": spec.user_id, "ad_id": spec.ad_id, "domain": spec.domain}
    return [named[key] if named[key] in schema or key not in schema else key for key in KEYS[side]] if side else []


def _table_problems(
    path: Path, name: str, schema: pl.Schema, spec: DatasetSpec, features: Sequence[FeatureSpec]
) -> Iterator[Problem]:
    """All of one file, in one streamed pass over the columns whose types are right."""
    keys = _table_keys(spec, name, schema)
    rules: list[tuple[str, Rule]] = []
    for column, role in [*_roles(spec, name, schema), *((one.name, Role(one.kind)) for one in features)]:
        if column not in schema:
            has = ", ".join(schema.names()) or "no columns"
            yield Problem(name, "is missing", f"the file has {has}; correct dataset.yaml or add it", column)
            continue
        wrong = type_problem(role, schema[column], spec.timestamp)
        if wrong:
            yield Problem(name, *wrong, column)
        else:
            rules += [(column, rule) for rule in content_rules(role, column, schema[column], spec.timestamp)]
    counts = [rule.broken.sum().alias(str(number)) for number, (_, rule) in enumerate(rules)]
    if keys and all(key in schema for key in keys):
        counts.append((pl.len() - pl.struct(keys).n_unique()).alias("repeated"))
    if not counts:
        return
    found = pl.scan_parquet(path).select(counts).collect(engine="streaming").row(0, named=True)
    for number, (column, rule) in enumerate(rules):
        if found[str(number)]:
            yield Problem(name, rule.what, rule.remedy, column, found[str(number)])
    if found.get("repeated"):
        what = f"with {' and '.join(keys)} of another row"
        yield Problem(name, what, "keep one row each", ", ".join(keys), found["repeated"])


def _one_sided(spec: DatasetSpec, domains: Sequence[DomainSummary]) -> Iterator[Problem]:
    rows, positives = sum(one.rows for one in domains), sum(one.positives for one in domains)
    if positives == 0:
        yield Problem("events/*.parquet", "with label 1: there is nothing to learn", "is this the right column?", spec.label, 0)
    elif positives == rows and not spec.positives_only:
        what = "with label 1, and none with 0"
        yield Problem("events/*.parquet", what, "write `positives_only: true` when only positives are logged", spec.label, rows)
    elif positives < rows and spec.positives_only:
        what = "with label 0 in a dataset of positives only"
        yield Problem("events/*.parquet", what, "take `positives_only` out of dataset.yaml", spec.label, rows - positives)


def _summary(dataset: Dataset) -> tuple[DomainSummary, ...]:
    counts = (
        dataset.scan_events()
        .group_by("domain")
        .agg(
            pl.len().alias("rows"),
            pl.col("user_id").hash().n_unique().alias("users"),
            pl.col("ad_id").hash().n_unique().alias("ads"),
            pl.col("label").sum().cast(pl.Int64).alias("positives"),
        )
        .collect(engine="streaming")
    )
    by_name = {row["domain"]: DomainSummary(**row) for row in counts.to_dicts()}
    return tuple(by_name[name] for name in natural_order(list(by_name)))


def _days(dataset: Dataset) -> tuple[date, ...]:
    if dataset.spec.timestamp is None:
        return ()
    day = pl.col("timestamp").dt.convert_time_zone(dataset.spec.timezone).dt.date()
    return tuple(dataset.scan_events().select(day.unique().sort()).collect(engine="streaming")["timestamp"])


def _cells(domain: str, rows: int, users: int, ads: int, positives: int) -> tuple[str, ...]:
    rate = f"{positives / rows:.4f}" if rows else "-"
    return domain, f"{rows:,}", f"{users:,}", f"{ads:,}", f"{positives:,}", rate
