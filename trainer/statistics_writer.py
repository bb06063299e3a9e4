"""The arrays of statistics features in a Tables directory (trainer/statistics.py says what they are).

<split>/statistics.npy        (n, S) uint8   what each event's row reads; sides in the order of SIDES
statistics_<split>/<side>.npy (E, ...) uint8  what is known at the end of the split, as the side's own arrays are laid out
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contracts.files import load_array, save_array
from contracts.schema import AD_ID, FIRST, USER_ID, FeatureSchema, FeatureSpec, Numeric, Side
from trainer.freeze import numeric
from trainer.sequence_statistics import of_ads, of_users, sequence_specs, sequences
from trainer.statistics import FOLDS, PAIR, Array, Counted, Owner, Statistics, by_day, local_days, statistics_specs

SIDES: tuple[Side, ...] = ("user", "user_domain", "ad", "ad_domain")
_SAMPLE_ROWS = 200_000
_CHUNK_ROWS = 200_000
_FOLD_SEED = 5
Part = tuple[Array, dict[Side, Array]]  # rows of a split and their raw values by side


class _Events(NamedTuple):
    """user, ad, domain, label, day: (n,) each; day is None without timestamps."""

    user: Array
    ad: Array
    domain: Array
    label: Array
    day: Array | None

    def at(self, rows: Array) -> _Events:
        return _Events(*(None if one is None else one[rows] for one in self))  # type: ignore[arg-type]


def write_statistics(directory: Path, schema: FeatureSchema, splits: Sequence[str], timezone: str | None) -> FeatureSchema:
    """Counts, freezes and writes; returns the schema with the new features. timezone: None without timestamps. Reads the log
    twice: once for the bins of the training rows, once to write."""
    events = {split: _read(directory / split, timezone) for split in splits}
    specs = (*statistics_specs(schema.features, timezone is not None), *sequence_specs(schema.features))
    fixed = _fixed(directory, schema)
    numerics = _freeze(_by_side(specs), _training_sample(directory, schema, events[splits[0]], fixed))
    statistics = _empty(directory, schema)
    for number, split in enumerate(splits):
        target = directory / split / "statistics.npy"
        rows = np.zeros((len(events[split].label), len(specs)), dtype=np.uint8)
        for part, values in _parts(statistics, events[split], number == 0, fixed):
            rows[part] = np.concatenate([_binned(values[side], numerics[side]) for side in SIDES], axis=1)
        save_array(target, rows)
        day = _tomorrow(events, splits[: number + 1])
        _save_state(directory / f"statistics_{split}", schema, statistics, numerics, day, fixed)
    named = {one.name: found for side in SIDES for one, found in zip(_by_side(specs)[side], numerics[side], strict=True)}
    return replace(
        schema,
        features=(*schema.features, *specs),
        numerics={**schema.numerics, **named},
        statistics=tuple(one.name for one in specs),
    )


def _read(folder: Path, timezone: str | None) -> _Events:
    user, ad, domain, label, time = (
        load_array(folder / f"{one}.npy") for one in ("user_row", "ad_row", "domain", "label", "time")
    )
    return _Events(user, ad, domain, label, None if timezone is None else local_days(time, timezone))


def _empty(directory: Path, schema: FeatureSchema) -> Statistics:
    return Statistics(_counted(directory, schema), len(schema.domains))


def _counted(directory: Path, schema: FeatureSchema) -> list[Counted]:
    """user_id and ad_id by row, so that rare ids have counts of their own; other columns by code, rare values together."""
    codes = {"user": load_array(directory / "user_codes.npy"), "ad": load_array(directory / "ad_codes.npy")}
    found = [
        Counted(USER_ID, "user", np.arange(len(codes["user"]))),
        Counted(AD_ID, "ad", np.arange(len(codes["ad"]))),
    ]
    starts = {one.name: one.start for block in ("user", "ad") for one in schema.block(block).fields}
    for one in (one for one in schema.features if one.statistics):
        owner: Owner = "user" if one.side == "user" else "ad"
        found.append(Counted(one.name, owner, codes[owner][:, starts[one.name]].astype(np.int64) - FIRST + 1))
    return found


def _fixed(directory: Path, schema: FeatureSchema) -> dict[Owner, Array]:
    """What does not change with the log: (E, M) raw values of every user and ad."""
    user_codes, ad_codes = (load_array(directory / f"{one}_codes.npy") for one in ("user", "ad"))
    named = sequences(schema.features)
    if not named:
        return {"user": np.zeros((len(user_codes), 0)), "ad": np.zeros((len(ad_codes), 0))}
    fields = {one.name: one for block in ("user", "ad") for one in schema.block(block).fields}
    own = [fields[one] for one in named]
    return {"user": of_users(user_codes, own), "ad": of_ads(user_codes, own, ad_codes[:, fields[AD_ID].start])}


def _parts(statistics: Statistics, events: _Events, folded: bool, fixed: dict[Owner, Array]) -> Iterator[Part]:
    """Every row of a split with what it may know; then the split is counted in."""
    for rows, values in _counted_parts(statistics, events, folded):
        for owner, entity_N in (("user", events.user[rows]), ("ad", events.ad[rows])):
            values[owner] = np.concatenate([values[owner], fixed[owner][entity_N]], axis=1)  # type: ignore[index]
        yield rows, values


def _counted_parts(statistics: Statistics, events: _Events, folded: bool) -> Iterator[Part]:
    if events.day is not None:
        for day, rows in by_day(events.day):
            yield from _chunked(statistics, events, rows, day)
            statistics.add(*events.at(rows))
        return
    rows = np.arange(len(events.label))
    if not folded:
        yield from _chunked(statistics, events, rows, None)
    else:
        fold = np.random.default_rng(_FOLD_SEED).integers(FOLDS, size=len(rows))
        for number in range(FOLDS):
            others = statistics.like()
            others.add(*events.at(rows[fold != number]))
            yield from _chunked(others, events, rows[fold == number], None)
    statistics.add(*events)


def _chunked(statistics: Statistics, events: _Events, rows: Array, day: int | None) -> Iterator[Part]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = rows[start : start + _CHUNK_ROWS]
        one = events.at(part)
        yield part, statistics.rows(one.user, one.ad, one.domain.astype(np.int64), day)


def _training_sample(directory: Path, schema: FeatureSchema, train: _Events, fixed: dict[Owner, Array]) -> dict[Side, Array]:
    kept: dict[Side, list[Array]] = {side: [] for side in SIDES}
    step = max(1, len(train.label) // _SAMPLE_ROWS)
    for rows, values in _parts(_empty(directory, schema), train, True, fixed):
        for side in SIDES:
            kept[side].append(values[side][rows % step == 0])
    return {side: np.concatenate(parts) for side, parts in kept.items()}


def _by_side(specs: Sequence[FeatureSpec]) -> dict[Side, list[FeatureSpec]]:
    return {side: [one for one in specs if one.side == side] for side in SIDES}


def _freeze(specs: dict[Side, list[FeatureSpec]], sample: dict[Side, Array]) -> dict[Side, list[Numeric]]:
    return {side: [numeric(sample[side][:, column]) for column in range(len(specs[side]))] for side in SIDES}


def _binned(values_NM: Array, numerics: Sequence[Numeric]) -> Array:
    columns = [one.bins(values_NM[:, column]) for column, one in enumerate(numerics)]
    return np.stack(columns, axis=1).astype(np.uint8)


def _tomorrow(events: dict[str, _Events], splits: Sequence[str]) -> int | None:
    """The day after the last counted one."""
    days = [events[one].day for one in splits]
    return max((int(one.max()) for one in days if one is not None and len(one)), default=0) + 1 if days[0] is not None else None


def _save_state(
    folder: Path,
    schema: FeatureSchema,
    statistics: Statistics,
    numerics: dict[Side, list[Numeric]],
    day: int | None,
    fixed: dict[Owner, Array],
) -> None:
    domains = range(len(schema.domains))
    for owner, axis in (("user", 1), ("ad", 0)):
        side: Owner = owner  # type: ignore[assignment]
        pair = PAIR[side]
        known = np.concatenate([statistics.state(side, day), fixed[side]], axis=1)
        save_array(folder / f"{side}.npy", _binned(known, numerics[side]))
        inside = [_binned(statistics.state_in(side, one, day), numerics[pair]) for one in domains]
        save_array(folder / f"{pair}.npy", np.stack(inside, axis=axis))
