"""A report as data: what the night leaves beside the ledger, and what the operators' page reads of it.

    <home>/reports/latest/<experiment>.json       one file an experiment, replaced whole

Pydantic only: a gateway serves these files and must not load what makes them. What has no number is null, with a reason.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import BadInput, WorkFailed
from contracts.files import write_bytes


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Model):
    """value with its two-sided interval; p_value: of "it is 0", for lifts. reason: why there is no value."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    reason: str | None = None


class LiftData(_Model):
    """Relative to the control, a fraction (abtest/compare.py). cuped_gain: share of the variance that CUPED takes off;
    cuped_used: it takes off enough; judged: what decisions read; p_value: of "no difference", by the same; holm_p: corrected
    for all shown beside it."""

    plain: Interval
    cuped: Interval
    cuped_gain: float | None
    cuped_reason: str | None
    cuped_used: bool
    always_valid: Interval
    judged: Interval
    p_value: float | None
    holm_p: float | None


class GuardrailData(_Model):
    metric: str
    margin: float
    verdict: Literal["passes", "breached", "undecided", "not computable"]
    p_value: float | None
    words: str


class ArmData(_Model):
    """One arm in one slice. values and lifts by metric; the control has no lifts. guardrails: in the slice of all domains."""

    arm: str
    recipe: str | None
    users: int
    requests: int
    impressions: int
    clicks: int
    conversions: int
    revenue: float
    values: dict[str, Interval]
    lifts: dict[str, LiftData]
    guardrails: list[GuardrailData]


class SplitData(_Model):
    """Sample ratio mismatch of one slice. chi_square: null also where it is infinite (users in an arm of no weight)."""

    broken: bool
    p_value: float | None
    chi_square: float | None
    reason: str | None


class SplitDiagnosis(SplitData):
    """alarm: the numbers mean nothing; words: where the mismatch is."""

    alarm: bool
    words: list[str]


class SliceData(_Model):
    """domain: null for all of them."""

    domain: str | None
    split: SplitData
    arms: list[ArmData]


class ArmShare(_Model):
    """share: of all units that the condition and the layer let in."""

    arm: str
    recipe: str | None
    share: float


class MetricData(_Model):
    name: str
    meaning: str
    kind: Literal["proportion", "mean", "ratio"]
    better: Literal["up", "down"]


class PlanData(_Model):
    primary: str
    guardrails: dict[str, float]
    least_lift: float | None
    planned_units: int
    confidence: float
    power: float
    sequential: bool
    min_units: int
    declared: date | None


class DecisionData(_Model):
    action: Literal["promote", "hold", "roll_back"]
    arm: str | None
    reasons: list[str]
    words: str


class DaysLeft(_Model):
    arm: str
    days: float | None
    reason: str | None


class EventCounts(_Model):
    answers: int
    repeated_answers: int
    events: int
    joined: int
    duplicate: int
    orphan: int
    late: int


class SeriesPoint(_Model):
    """What a report of all days up to `day` says: the lift of a metric, and its always-valid interval at that look. users: of
    both arms."""

    day: date
    domain: str | None
    arm: str
    metric: str
    users: int
    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class ReportData(_Model):
    """One experiment as of `made_at`. since: first day of the present phase, null where the shares never changed; start: first
    day with an exposure; series: by day, all domains for every metric, each domain for the primary one."""

    experiment: str
    made_at: datetime
    start: date | None
    since: date | None
    days: int
    control: str
    arms: list[ArmShare]
    plan: PlanData
    metrics: list[MetricData]
    decision: DecisionData
    notes: list[str]
    split: SplitDiagnosis
    slices: list[SliceData]
    days_left: list[DaysLeft]
    crossed_users: int
    unknown_arms: dict[str, int]
    events: EventCounts
    cap: float | None
    cap_reason: str | None
    series: list[SeriesPoint]


def report_path(home: Path, experiment: str) -> Path:
    return home / "reports" / "latest" / f"{quote(experiment, safe='')}.json"


def write_report(home: Path, found: ReportData) -> None:
    write_bytes(report_path(home, found.experiment), found.model_dump_json(indent=1).encode())


def read_report(home: Path, experiment: str) -> ReportData | None:
    """None where there is none yet. Raises WorkFailed for a file that is no report."""
    path = report_path(home, experiment)
    remedy = f"make it again: mdrec ab report {experiment}"
    try:
        return ReportData.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:  # a name that no file system takes, or a file that may not be read
        raise BadInput(f"cannot read {path}: {error.strerror}", remedy) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise WorkFailed(f"{path} is no report: {where}: {first['msg']}", remedy) from None
