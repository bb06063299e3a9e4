"""What is decided before the first user is exposed: metrics, guardrails, cap, errors, size. A YAML file beside the ledger:

primary: ecpm                    # the one metric that must rise
guardrails: {ctr: 0.01}          # metric: worsening that is tolerated, a fraction
least_lift: 0.02                 # the least rise worth finding, for power and projected days
planned_units: 40000             # users of two arms, where the always-valid interval is narrowest
cap: {percentile: 99}            # or {value: 50}: the most that counts of a user's revenue in one day
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from abtest.metrics import CAPPED, METRICS
from contracts.errors import BadInput
from contracts.files import write_bytes

Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cap(_Model):
    """The most of a user's revenue in one day that counts. value: currency units. percentile: of the positive revenues of
    users and days in the `Plan.before_days` before the start, so that no arm has a say in it."""

    value: Annotated[float | None, Field(gt=0)] = None
    percentile: Annotated[float | None, Field(gt=0, lt=100)] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.value is None) == (self.percentile is None):
            raise ValueError("a cap is either a value or a percentile")
        return self


class Plan(_Model):
    """confidence: of every interval, 1 - alpha. power: at least_lift. sequential: judge by intervals that hold at every look
    (the nightly report is one); false: by the fixed-horizon ones, for a single look. before_days: the past that CUPED and a
    cap's percentile read. min_units: users per arm before anything is promoted. max_crossed: tolerated share of users seen
    in two arms. declared: the day the plan was stored."""

    primary: str = "ecpm"
    guardrails: dict[str, Fraction] = {"ctr": 0.01}
    least_lift: Annotated[float | None, Field(gt=0)] = None
    planned_units: Annotated[int, Field(ge=2)] = 10_000
    cap: Cap | None = None
    confidence: Fraction = 0.95
    power: Fraction = 0.8
    sequential: bool = True
    before_days: Annotated[int, Field(ge=0)] = 14
    min_units: Annotated[int, Field(ge=2)] = 1_000
    max_crossed: Fraction = 0.01
    declared: date | None = None

    @model_validator(mode="after")
    def _known_metrics(self) -> Self:
        known = self.metrics
        for name in (self.primary, *self.guardrails):
            if name not in known:
                raise ValueError(
                    f"unknown metric {name!r}; known: {', '.join(known)}" + ("" if self.cap else f"; {CAPPED} needs a cap")
                )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that the report has, in its order."""
        return tuple(name for name in METRICS if name != CAPPED or self.cap is not None)


def load_plan(path: Path) -> Plan:
    """Raises BadInput naming file and field."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Plan.model_validate({} if raw is None else raw)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no YAML: {' '.join(str(error).split())}", "check the line it names") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "plan"
        raise BadInput(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}", "see docs/experiments.md") from None


def declare(home: Path, experiment: str, plan: Plan, today: date) -> Plan:
    """Store the plan, dated. Raises BadInput when another one is there: a plan that changes with the data plans nothing."""
    path = _path(home, experiment)
    if path.exists():
        stored = load_plan(path)
        if stored.model_copy(update={"declared": None}) == plan.model_copy(update={"declared": None}):
            return stored
        raise BadInput(
            f"experiment {experiment!r} has had another plan since {stored.declared}",
            f"give the experiment another key, or remove {path} and say so where you publish its results",
        )
    dated = plan.model_copy(update={"declared": today})
    write_bytes(path, yaml.safe_dump(dated.model_dump(mode="json", exclude_none=True), sort_keys=False).encode())
    return dated


def plan_of(home: Path, experiment: str) -> Plan:
    """The declared plan; the default one, undated, where there is none."""
    path = _path(home, experiment)
    return load_plan(path) if path.exists() else Plan()


def _path(home: Path, experiment: str) -> Path:
    return home / "plans" / f"{quote(experiment, safe='')}.yaml"
