"""From a report to its file: the same numbers as data (report_models.py), and what each day's report would have said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import date, datetime

from abtest.analyze import ArmReport, ExperimentReport, Slice
from abtest.compare import Lift
from abtest.definitions import Rule
from abtest.estimate import Result
from abtest.guardrails import Guardrail
from abtest.metrics import METRICS
from abtest.promote import Decision, decide
from abtest.render import notes
from abtest.report_models import (
    ArmData,
    ArmShare,
    DaysLeft,
    DecisionData,
    EventCounts,
    GuardrailData,
    Interval,
    LiftData,
    MetricData,
    PlanData,
    ReportData,
    SeriesPoint,
    SliceData,
    SplitData,
    SplitDiagnosis,
)
from abtest.srm import SrmCheck
from abtest.stats import NotComputable

SERIES_DAYS = 90  # of the latest days; older ones say nothing about a decision

ReportUntil = Callable[[date], ExperimentReport]


def report_data(
    found: ExperimentReport, rule: Rule, since: date | None, made_at: datetime, series: list[SeriesPoint]
) -> ReportData:
    """rule: the experiment's, for its shares; since: as the report was asked for."""
    plan = found.plan
    shares = [end - start for start, end in rule.spans()]
    check = found.overall.srm
    return ReportData(
        experiment=found.experiment,
        made_at=made_at,
        start=found.start,
        since=since,
        days=found.days,
        control=found.control,
        arms=[
            ArmShare(arm=one.arm, recipe=one.recipe, share=round(share, 9))
            for one, share in zip(found.overall.arms, shares, strict=True)
        ],
        plan=PlanData(**plan.model_dump(include=set(PlanData.model_fields))),
        metrics=[
            MetricData(name=name, meaning=METRICS[name].meaning, kind=METRICS[name].kind, better=METRICS[name].better)
            for name in plan.metrics
        ],
        decision=_decision(decide(found)),
        notes=notes(found),
        split=SplitDiagnosis(
            **_split(check).model_dump(),
            alarm=(isinstance(check, SrmCheck) and check.broken) or bool(found.split.words),
            words=found.split.words,
        ),
        slices=[_slice(None, found.overall), *(_slice(domain, part) for domain, part in found.domains.items())],
        days_left=[DaysLeft(arm=arm, days=_number(left), reason=_reason(left)) for arm, left in found.days_left.items()],
        crossed_users=found.crossed_units,
        unknown_arms=dict(found.unknown_arms),
        events=EventCounts(
            answers=found.join.exposures,
            repeated_answers=found.join.duplicate_exposures,
            events=found.join.events,
            joined=found.join.joined_events,
            duplicate=found.join.duplicate_events,
            orphan=found.join.orphan_events,
            late=found.join.late_events,
        ),
        cap=_number(found.cap),
        cap_reason=_reason(found.cap),
        series=series,
    )


def series(found: ExperimentReport, before: ReportData | None, until: ReportUntil) -> list[SeriesPoint]:
    """Points of each day with an exposure, the last one's from `found`. Those of `before`, an earlier file that this one
    continues, are kept as they are but for its last day's, which was not over; the others are asked of `until`."""
    kept: dict[date, list[SeriesPoint]] = {}
    for point in before.series if before is not None else ():
        kept.setdefault(point.day, []).append(point)
    if kept:
        del kept[max(kept)]
    wanted = found.exposed[-SERIES_DAYS:]
    points = [point for day in wanted[:-1] for point in (kept.get(day) or _points(day, until(day)))]
    return points + (list(_points(wanted[-1], found)) if wanted else [])


def continues(before: ReportData | None, found: ExperimentReport, rule: Rule, since: date | None) -> bool:
    """Was the earlier file made in the same phase, by the same plan?"""
    if before is None:
        return False
    plan = PlanData(**found.plan.model_dump(include=set(PlanData.model_fields)))
    return (before.since, before.start, before.plan, [one.arm for one in before.arms]) == (since, found.start, plan, rule.arms)


def words(decision: Decision) -> str:
    return f"{decision.action}{f' {decision.arm}' if decision.arm else ''}: {'; '.join(decision.reasons)}"


def _points(day: date, found: ExperimentReport) -> Iterator[SeriesPoint]:
    primary = found.plan.primary
    slices: list[tuple[str | None, Slice]] = [(None, found.overall), *found.domains.items()]
    for domain, part in slices:
        control = part.arms[0].units
        for arm in part.arms[1:]:
            for metric, lift in arm.lifts.items():
                if domain is None or metric == primary:
                    at = _interval(lift.always_valid)
                    yield SeriesPoint(
                        day=day, domain=domain, arm=arm.arm, metric=metric, users=arm.units + control,
                        value=at.value, low=at.low, high=at.high, reason=at.reason,
                    )  # fmt: skip


def _slice(domain: str | None, part: Slice) -> SliceData:
    return SliceData(domain=domain, split=_split(part.srm), arms=[_arm(one) for one in part.arms])


def _arm(one: ArmReport) -> ArmData:
    return ArmData(
        arm=one.arm,
        recipe=one.recipe,
        users=one.units,
        requests=one.requests,
        impressions=one.impressions,
        clicks=one.clicks,
        conversions=one.conversions,
        revenue=one.revenue,
        values={name: _interval(value) for name, value in one.values.items()},
        lifts={name: _lift(lift) for name, lift in one.lifts.items()},
        guardrails=[_guardrail(guardrail) for guardrail in one.guardrails],
    )


def _lift(one: Lift) -> LiftData:
    return LiftData(
        plain=_interval(one.plain),
        cuped=_interval(one.adjusted),
        cuped_gain=_number(one.gain),
        cuped_reason=_reason(one.gain),
        cuped_used=one.adjusted_helps,
        always_valid=_interval(one.always_valid),
        judged=_interval(one.judged),
        p_value=one.p_value,
        holm_p=one.holm_p,
    )


def _guardrail(one: Guardrail) -> GuardrailData:
    return GuardrailData(metric=one.metric, margin=one.margin, verdict=one.verdict, p_value=one.p_value, words=one.reason)


def _decision(one: Decision) -> DecisionData:
    return DecisionData(action=one.action, arm=one.arm, reasons=one.reasons, words=words(one))


def _split(one: SrmCheck | NotComputable) -> SplitData:
    if isinstance(one, NotComputable):
        return SplitData(broken=False, p_value=None, chi_square=None, reason=one.reason)
    chi_square = one.chi_square if math.isfinite(one.chi_square) else None
    return SplitData(broken=one.broken, p_value=one.p_value, chi_square=chi_square, reason=None)


def _interval(one: Result) -> Interval:
    if isinstance(one, NotComputable):
        return Interval(reason=one.reason)
    return Interval(value=one.value, low=one.low, high=one.high, p_value=one.p_value)


def _number(one: float | NotComputable | None) -> float | None:
    return None if isinstance(one, NotComputable) else one


def _reason(one: float | NotComputable | None) -> str | None:
    return one.reason if isinstance(one, NotComputable) else None
