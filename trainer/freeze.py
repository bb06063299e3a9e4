"""Freezing the feature schema on the training window: vocabularies with rare values pooled, quantile bins, scales.

Point in time: only entities and events of the training split are counted here, so nothing of the validation or test
window reaches a vocabulary or a bin edge. What streams through is aggregated by Polars; memory grows with the number of
distinct values, never with the number of events.

min_count = 2 for every vocabulary, of rankers and retrievers alike (they share one schema, hence one encode): a value seen
once tells a model nothing it could use again, while a retriever can only find an ad that has a code of its own, so a higher
bar would hide the tail of the catalogue. The values seen once are what trains the UNKNOWN embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from contracts.errors import BadInput
from contracts.ids import IdTable
from contracts.schema import AD_ID, USER_ID, FeatureSchema, FeatureSpec, Numeric, Side, canonical

MIN_COUNT = 2
BINS = 32
WEIGHT = "mdrec_train_impressions"  # training impressions of an entity, carried beside its features
_SAMPLE_ROWS = 1_000_000

IMPLICIT = (
    FeatureSpec(name=USER_ID, side="user", kind="categorical"),
    FeatureSpec(name=AD_ID, side="ad", kind="categorical"),
)


def freeze(
    features: Sequence[FeatureSpec],
    domains: Sequence[str],
    train: pl.LazyFrame,
    train_rows: int,
    entities: dict[Side, pl.LazyFrame],
    min_count: int = MIN_COUNT,
) -> FeatureSchema:
    """entities: for each side but context, its features beside WEIGHT. Values count by training impressions (elements of
    a sequence: by users who have them); vocabularies are ordered by falling count, then by value."""
    declared = (*IMPLICIT, *features)
    counts: dict[str, Counter[str]] = {}
    owners = {one.name: one for one in declared if one.kind == "categorical"}
    for spec in declared:
        if spec.kind == "numeric" or (spec.kind == "sequence" and spec.vocabulary in owners):
            continue
        if spec.kind == "sequence" and any(one.name == spec.of for one in declared):
            remedy = "name a categorical feature, user_id or ad_id"
            raise BadInput(f"feature {spec.name!r} is a sequence of {spec.of!r}, which is not categorical", remedy)
        found = _value_counts(spec, train if spec.side == "context" else _seen(entities[spec.side]))
        counts.setdefault(spec.vocabulary, Counter()).update(found)
    numerics = {}
    for spec in (one for one in declared if one.kind == "numeric"):
        in_events = spec.side == "context"
        values = _sample(train, spec.name, train_rows) if in_events else _values(entities[spec.side], spec.name)
        numerics[spec.name] = _numeric(spec, values)
    vocabularies = {name: IdTable(_ordered(found, min_count)) for name, found in counts.items()}
    return FeatureSchema(declared, tuple(domains), vocabularies, numerics)


def _ordered(counts: Counter[str], min_count: int) -> Iterable[str]:
    kept = ((value, count) for value, count in counts.items() if count >= min_count)
    return (value for value, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0])))


def _seen(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.filter(pl.col(WEIGHT) > 0)


def _value_counts(spec: FeatureSpec, frame: pl.LazyFrame) -> Counter[str]:
    if spec.kind == "sequence":
        grouped = frame.select(pl.col(spec.name).list.explode()).group_by(spec.name).agg(pl.len().alias("n"))
    elif spec.side == "context":
        grouped = frame.group_by(spec.name).agg(pl.len().alias("n"))
    else:
        grouped = frame.group_by(spec.name).agg(pl.col(WEIGHT).sum().alias("n"))
    counts: Counter[str] = Counter()
    for value, count in grouped.collect(engine="streaming").iter_rows():
        spelled = canonical(value)
        if spelled is not None:
            counts[spelled] += count
    return counts


def _values(frame: pl.LazyFrame, name: str) -> pl.Series:
    return _seen(frame).select(name).collect(engine="streaming")[name]


def _sample(train: pl.LazyFrame, name: str, rows: int) -> pl.Series:
    return train.select(pl.col(name).gather_every(max(1, rows // _SAMPLE_ROWS))).collect(engine="streaming")[name]


def _numeric(spec: FeatureSpec, values: pl.Series) -> Numeric:
    if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        remedy = "declare it categorical, or store numbers"
        raise BadInput(f"feature {spec.name!r} is numeric, its column holds {values.dtype}", remedy)
    return numeric(values.drop_nulls().cast(pl.Float64).to_numpy())


def numeric(values: np.ndarray[Any, Any]) -> Numeric:
    """At most BINS quantile bins with distinct edges, all above the smallest value (no bin starts out empty)."""
    numbers = np.sort(
        values[np.isfinite(values)].astype(np.float64)
    )  # joins give rows in any order, and sums must not depend on it
    if len(numbers) == 0:
        return Numeric()
    quantiles = np.quantile(numbers, np.arange(1, BINS) / BINS)
    edges = np.unique(quantiles[quantiles > numbers.min()])
    deviation = float(numbers.std())
    return Numeric(edges=tuple(edges.tolist()), mean=float(numbers.mean()), deviation=deviation if deviation > 0 else 1.0)
