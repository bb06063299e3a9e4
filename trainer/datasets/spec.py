"""`dataset.yaml`: which column is what. Read strictly: an unknown key or a wrong value is named, never guessed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contracts.errors import BadInput
from contracts.schema import FeatureSpec

SPEC_FILE = "dataset.yaml"
Unit = Literal["s", "ms", "us", "ns"]

# Names of the canonical columns; a feature of the same name could not stand beside them.
RESERVED = ("user_id", "ad_id", "domain", "timestamp", "label", "split", "bid", "active")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TimestampSpec(_Strict):
    """unit: of an integer column since 1970 (UTC); a Datetime column needs none. timezone: where a day begins."""

    column: str = Field(min_length=1)
    unit: Unit | None = None
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            pl.Series([None], dtype=pl.Datetime("us", name))
            pl.Series([0]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(name)
        except pl.exceptions.PolarsError:
            raise ValueError(f"unknown timezone {name!r}; write a name such as UTC or Asia/Shanghai") from None
        return name


class BidSpec(_Strict):
    """per domain: one bid an ad and domain; per ad: one an ad; per event: the bid of each impression."""

    column: str = Field(min_length=1)
    per: Literal["domain", "ad", "event"] = "domain"


class DatasetSpec(_Strict):
    """Column names are those of the files; ids and domains become strings whatever their type."""

    name: str = Field(min_length=1)
    domain: str = Field(min_length=1)
    user_id: str = Field(min_length=1)
    ad_id: str = Field(min_length=1)
    timestamp: TimestampSpec | None = None
    label: str | None = Field(default=None, min_length=1)
    positives_only: bool = False
    bid: BidSpec | None = None
    features: tuple[FeatureSpec, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        if self.label is None and not self.positives_only:
            raise ValueError("no label; name the 0/1 column (`label: is_click`) or write `positives_only: true`")
        names = [one.name for one in self.features]
        repeated = sorted({one for one in names if names.count(one) > 1})
        if repeated:
            raise ValueError(f"feature {repeated[0]!r} is declared {names.count(repeated[0])} times; keep one")
        reserved = [one for one in names if one in RESERVED]
        if reserved:
            raise ValueError(f"feature {reserved[0]!r} has the name of a canonical column; rename the feature and its column")
        return self

    @property
    def timezone(self) -> str:
        return self.timestamp.timezone if self.timestamp else "UTC"


def read_spec(directory: Path) -> DatasetSpec:
    """Raises BadInput naming the file, the field, the value and what to do."""
    path = directory / SPEC_FILE
    if not path.is_file():
        raise BadInput(f"{path} is missing", "a dataset is a directory with dataset.yaml and events/*.parquet")
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not YAML: {_one_line(error)}", "see docs for an example of dataset.yaml") from None
    if not isinstance(body, dict):
        raise BadInput(f"{path} holds {type(body).__name__}, not a mapping", "start it with `name:` and the column names")
    try:
        return DatasetSpec.model_validate(body)
    except ValidationError as error:
        raise BadInput(f"{path}: {'; '.join(_explain(one) for one in error.errors())}", "correct dataset.yaml") from None


def write_spec(path: Path, spec: DatasetSpec) -> None:
    body = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    path.write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _explain(error: Any) -> str:
    field = ".".join(str(one) for one in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    if error["type"] in ("missing", "extra_forbidden"):
        return f"{field}: {'this field is required' if error['type'] == 'missing' else 'no such field'}"
    return f"{field}: {message}, got {error['input']!r}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
