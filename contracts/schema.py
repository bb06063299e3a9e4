"""Features: what they are (FeatureSpec), how they were frozen on the training window (FeatureSchema), and the single
`encode` that turns raw values into model inputs, in training and in serving alike.

A model sees three blocks: `user` (sides user, user_domain), `ad` (ad, ad_domain) and `context`. A block is two matrices:
`codes` int32 (categorical: one column; binned numeric: one; sequence: max_length columns) and `dense` float32
(standardised numeric: one column).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.errors import BadInput
from contracts.files import read_json, write_json
from contracts.ids import IdTable

Side = Literal["user", "ad", "context", "user_domain", "ad_domain"]
Kind = Literal["categorical", "numeric", "sequence"]
BlockName = Literal["user", "ad", "context"]

BLOCK_SIDES: dict[BlockName, tuple[Side, ...]] = {
    "user": ("user", "user_domain"),
    "ad": ("ad", "ad_domain"),
    "context": ("context",),
}
USER_ID, AD_ID = "user_id", "ad_id"

PAD, UNKNOWN, FIRST = 0, 1, 2  # codes: missing or padding; unseen or rare; the first known value
_CLIP = 5.0  # standardised values are cut at this many deviations: one wild value must not own a gradient


class FeatureSpec(BaseModel):
    """One feature as `dataset.yaml` declares it. statistics: impressions and clicks are counted by its values, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\w[\w .:-]*$")  # it becomes a file name
    side: Side
    kind: Kind
    of: str | None = None
    max_length: int = Field(default=50, ge=1, le=1000)
    encoding: Literal["bin", "standardise"] = "bin"
    statistics: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> FeatureSpec:
        if self.of is not None and self.kind != "sequence":
            raise ValueError(f"feature {self.name!r}: `of` belongs to sequences, and this one is {self.kind}")
        if self.kind == "sequence" and self.side != "user":
            raise ValueError(f"feature {self.name!r}: sequences are of side user, not {self.side}")
        if self.statistics and (self.kind != "categorical" or self.side not in ("user", "ad")):
            raise ValueError(f"feature {self.name!r}: `statistics` are of categorical features of side user or ad")
        return self

    @property
    def vocabulary(self) -> str:
        """The vocabulary and embedding table it reads: its own, or that of the feature a sequence is made `of`."""
        return self.of or self.name


class Numeric(BaseModel):
    """How one numeric feature was frozen. edges: rising inner bin edges (raw units); mean, deviation: of raw values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    def bins(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Codes of raw values: PAD for NaN, else FIRST + the bin."""
        return np.where(np.isnan(values), PAD, FIRST + np.searchsorted(np.asarray(self.edges), values, side="right"))


@dataclass(frozen=True)
class ModelField:
    """Where one feature stands in its block. cardinality: rows of its embedding table (0 for dense fields)."""

    name: str
    side: Side
    kind: Kind
    matrix: Literal["codes", "dense"]
    start: int
    width: int
    table: str
    cardinality: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.width)


@dataclass(frozen=True)
class Block:
    """The fields of one block, in order, and the widths of its two matrices."""

    name: BlockName
    fields: tuple[ModelField, ...]
    code_width: int
    dense_width: int


class Encoded(NamedTuple):
    """codes: (n, I) int32; dense: (n, N) float32; columns in the order of the side's features."""

    codes: np.ndarray[Any, np.dtype[np.int32]]
    dense: np.ndarray[Any, np.dtype[np.float32]]


def canonical(value: Any) -> str | None:
    """One spelling per value: 5, 5.0 and "5" are one value, None and NaN are missing."""
    if type(value) is str:
        return value
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        number = float(value)
        if number != number:
            return None
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


@dataclass(frozen=True)
class FeatureSchema:
    """Features frozen on a training window. domains: names in index order. vocabularies: by feature name, rare ids left
    out. numerics: by feature name. statistics: names of the features that are counted from the log, last in their sides.
    unread: features that models do not see, though their columns stay where they are."""

    features: tuple[FeatureSpec, ...]
    domains: tuple[str, ...]
    vocabularies: Mapping[str, IdTable]
    numerics: Mapping[str, Numeric]
    statistics: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()

    @cached_property
    def domain_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.domains)}

    def of_side(self, side: Side) -> tuple[FeatureSpec, ...]:
        return tuple(one for one in self.features if one.side == side)

    def cardinality(self, spec: FeatureSpec) -> int:
        if spec.kind == "numeric":
            return FIRST + len(self.numerics[spec.name].edges) + 1
        return FIRST + len(self.vocabularies[spec.vocabulary])

    @cached_property
    def blocks(self) -> dict[BlockName, Block]:
        return {name: self._block(name) for name in BLOCK_SIDES}

    def block(self, name: BlockName) -> Block:
        return self.blocks[name]

    def width(self, side: Side) -> tuple[int, int]:
        """(code columns, dense columns) of one side."""
        codes = sum(_code_width(one) for one in self.of_side(side))
        return codes, sum(1 for one in self.of_side(side) if _is_dense(one))

    def without_statistics(self) -> FeatureSchema:
        """The same columns for a model that does not read the statistics."""
        return replace(self, unread=frozenset(self.statistics))

    def encode(self, side: Side, columns: Mapping[str, Sequence[Any]], n: int) -> Encoded:
        """Raw values -> model inputs. columns: feature name -> n raw values (n sequences for a sequence feature); a
        feature absent from `columns` is missing in every row. The only encoder: training and serving both call it."""
        code_width, dense_width = self.width(side)
        codes = np.zeros((n, code_width), dtype=np.int32)
        dense = np.zeros((n, dense_width), dtype=np.float32)
        code_at = dense_at = 0
        for spec in self.of_side(side):
            values = columns.get(spec.name)
            if values is not None and len(values) != n:
                raise BadInput(f"feature {spec.name!r} has {len(values)} values for {n} rows")
            if _is_dense(spec):
                if values is not None:
                    dense[:, dense_at] = self._standardise(spec, values)
                dense_at += 1
                continue
            if values is not None:
                self._fill(spec, values, codes[:, code_at : code_at + _code_width(spec)])
            code_at += _code_width(spec)
        return Encoded(codes, dense)

    def encode_block(self, name: BlockName, columns: Mapping[str, Sequence[Any]], n: int) -> Encoded:
        """`encode` of every side of a block, side by side: what a model reads of n rows."""
        parts = [self.encode(side, columns, n) for side in BLOCK_SIDES[name]]
        return Encoded(np.concatenate([one.codes for one in parts], axis=1), np.concatenate([one.dense for one in parts], axis=1))

    def save(self, directory: Path) -> None:
        for name, vocabulary in self.vocabularies.items():
            vocabulary.save(directory / "vocab" / name)
        numerics = {name: one.model_dump() for name, one in self.numerics.items()}
        features = [one.model_dump() for one in self.features]
        names = sorted(self.vocabularies)
        body = {
            "features": features,
            "domains": list(self.domains),
            "numerics": numerics,
            "vocabularies": names,
            "statistics": list(self.statistics),
        }
        write_json(directory / "schema.json", body)

    @classmethod
    def load(cls, directory: Path) -> FeatureSchema:
        body = read_json(directory / "schema.json")
        return cls(
            features=tuple(FeatureSpec(**one) for one in body["features"]),
            domains=tuple(body["domains"]),
            vocabularies={name: IdTable.load(directory / "vocab" / name) for name in body["vocabularies"]},
            numerics={name: Numeric(**one) for name, one in body["numerics"].items()},
            statistics=tuple(body["statistics"]),
        )

    def _block(self, name: BlockName) -> Block:
        fields: list[ModelField] = []
        at = {"codes": 0, "dense": 0}
        for side in BLOCK_SIDES[name]:
            for spec in self.of_side(side):
                matrix: Literal["codes", "dense"] = "dense" if _is_dense(spec) else "codes"
                width = 1 if matrix == "dense" else _code_width(spec)
                cardinality = 0 if matrix == "dense" else self.cardinality(spec)
                if spec.name not in self.unread:
                    fields.append(ModelField(spec.name, side, spec.kind, matrix, at[matrix], width, spec.vocabulary, cardinality))
                at[matrix] += width
        return Block(name, tuple(fields), at["codes"], at["dense"])

    def _fill(self, spec: FeatureSpec, values: Sequence[Any], out: np.ndarray[Any, Any]) -> None:
        if spec.kind == "numeric":
            out[:, 0] = self.numerics[spec.name].bins(_as_float(spec, values))
        elif spec.kind == "categorical":
            out[:, 0] = self._codes(spec, values)
        else:
            for row, sequence in enumerate(values):
                if sequence is not None and len(sequence):
                    recent = sequence[-spec.max_length :]
                    out[row, : len(recent)] = self._codes(spec, recent)

    def _codes(self, spec: FeatureSpec, values: Sequence[Any]) -> np.ndarray[Any, Any]:
        spelled = [canonical(one) for one in values]
        known = self.vocabularies[spec.vocabulary].find(spelled)
        codes = np.where(known < 0, UNKNOWN, known + FIRST)
        codes[[one is None for one in spelled]] = PAD
        return codes

    def _standardise(self, spec: FeatureSpec, values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        frozen = self.numerics[spec.name]
        scaled = np.clip((_as_float(spec, values) - frozen.mean) / frozen.deviation, -_CLIP, _CLIP)
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def _is_dense(spec: FeatureSpec) -> bool:
    return spec.kind == "numeric" and spec.encoding == "standardise"


def _code_width(spec: FeatureSpec) -> int:
    if _is_dense(spec):
        return 0
    return spec.max_length if spec.kind == "sequence" else 1


def _as_float(spec: FeatureSpec, values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        numbers = np.array([np.nan if one is None else one for one in values], dtype=np.float64)
        if numbers.ndim != 1:
            raise ValueError("each value is a list")
        return numbers
    except (TypeError, ValueError) as error:
        raise BadInput(f"feature {spec.name!r} is numeric: {error}", "send a number, or null when it is missing") from None
