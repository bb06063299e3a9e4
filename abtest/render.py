"""A report for people: Markdown for files, rich tables for terminals. What has no number says why."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from abtest.analyze import ExperimentReport, Slice, slices
from abtest.compare import Lift
from abtest.estimate import Result
from abtest.srm import SrmCheck
from abtest.stats import NotComputable

_COUNTS = ("units", "requests", "impressions", "clicks", "conversions")


def to_markdown(report: ExperimentReport) -> str:
    lines = [f"# Experiment {report.experiment}", "", *(f"- {note}" for note in notes(report))]
    for domain, part in slices(report):
        head, *rows = _rows(report, part)
        lines += [
            "",
            f"## {_escaped(domain)}",
            "",
            f"Split {_srm(part.srm)}.",
            "",
            _row(head),
            _row(["---"] * len(head)),
            *map(_row, rows),
        ]
    return "\n".join(lines) + "\n"


def to_tables(report: ExperimentReport) -> list[Table]:
    """One table a domain (overall first), a column an arm: it fits a terminal of 80 columns with two arms."""
    tables = []
    for domain, part in slices(report):
        head, *rows = _rows(report, part)
        table = Table(title=Text(f"{report.experiment} in {domain}, split {_srm(part.srm)}"), title_justify="left")
        for at, name in enumerate(head):
            table.add_column(Text(name), justify="right" if at else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        tables.append(table)
    return tables


def notes(report: ExperimentReport) -> list[str]:
    """What the numbers rest on, and what is wrong with them."""
    join, plan = report.join, report.plan
    kind = "hold at every look" if plan.sequential else "hold for one look chosen beforehand"
    lines = [
        f"{plan.confidence:.0%} intervals, users as units, control: {report.control}; decisions by intervals that {kind}; "
        "p corrected by Holm over metrics and domains.",
        f"Events: {join.joined_events:,} joined, {join.duplicate_events:,} duplicate, {join.orphan_events:,} without exposure, "
        f"{join.late_events:,} late; answers: {join.exposures:,}, {join.duplicate_exposures:,} repeated.",
        _declared(report),
    ]
    if report.crossed_units:
        lines.append(f"{report.crossed_units:,} users were seen in two arms and are left out.")
    lines += [f"{units:,} users were in the arm {arm!r}, which is not defined." for arm, units in report.unknown_arms.items()]
    if report.cap is not None:
        cap = f"({report.cap.reason})" if isinstance(report.cap, NotComputable) else f"{report.cap:,.4g}"
        lines.append(f"Capped revenue counts at most {cap} of a user in a day over all domains.")
    for arm in report.overall.arms[1:]:
        lines += [f"{arm.arm}: guardrail {one.verdict}: {one.reason}." for one in arm.guardrails]
        lines += _cuped_note(arm.arm, arm.lifts)
        left = report.days_left[arm.arm]
        lines.append(
            f"{arm.arm}: days to decision: "
            + (f"({left.reason})" if isinstance(left, NotComputable) else f"{left:,.0f} more")
            + "."
        )
    check = report.overall.srm
    if (isinstance(check, SrmCheck) and check.broken) or report.split.words:
        p_value = f" (p = {check.p_value:.2g})" if isinstance(check, SrmCheck) else ""
        lines.append(f"SAMPLE RATIO MISMATCH{p_value}: do not use these numbers.")
        lines += [f"Mismatch {words}." for words in report.split.words]
    return lines


def _declared(report: ExperimentReport) -> str:
    plan = report.plan
    if plan.declared is None:
        return f"No plan was declared; the default's primary metric is {plan.primary}."
    late = report.start is not None and plan.declared > report.start
    return f"Plan of {plan.declared}, primary metric {plan.primary}" + (
        f": declared after the start on {report.start}." if late else "."
    )


def _cuped_note(arm: str, lifts: dict[str, Lift]) -> list[str]:
    reasons = {one.gain.reason for one in lifts.values() if isinstance(one.gain, NotComputable)}
    gains = {name: one.gain for name, one in lifts.items() if not isinstance(one.gain, NotComputable)}
    if not gains:
        return [f"{arm}: CUPED: ({'; '.join(sorted(reasons))})."]
    helped = [f"{name} {gain:.0%}" for name, gain in gains.items() if lifts[name].adjusted_helps]
    if not helped:
        return [f"{arm}: CUPED gains nothing: the days before the start say nothing about those after it."]
    return [f"{arm}: CUPED takes off of the variance: {', '.join(helped)}; of the others nothing."]


def _rows(report: ExperimentReport, part: Slice) -> list[list[str]]:
    """A head with the arms, then counts, then each metric with its lifts below it."""
    rows = [["", *(f"{arm.arm} ({arm.recipe})" if arm.recipe else arm.arm for arm in part.arms)]]
    rows += [[name, *(f"{getattr(arm, name):,}" for arm in part.arms)] for name in _COUNTS]
    rows.append(["revenue", *(f"{arm.revenue:,.2f}" for arm in part.arms)])
    for name in report.plan.metrics:
        rows.append([name, *(_value(arm.values[name]) for arm in part.arms)])
        if len(part.arms) > 1:
            rows.append([f"  vs {report.control}", "", *(_lift(arm.lifts[name]) for arm in part.arms[1:])])
            rows.append(["  at every look", "", *(_always(arm.lifts[name]) for arm in part.arms[1:])])
    return rows


def _value(one: Result) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"


def _lift(one: Lift) -> str:
    best = one.adjusted if one.adjusted_helps else one.plain
    return _percent(best) + (" CUPED" if one.adjusted_helps else "")


def _always(one: Lift) -> str:
    if isinstance(one.always_valid, NotComputable):
        return ""
    p_value = "" if one.holm_p is None else f", p {one.holm_p:.2g}"
    return f"[{one.always_valid.low:+.1%}, {one.always_valid.high:+.1%}]{p_value}"


def _percent(one: Result) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else f"{one.value:+.1%} [{one.low:+.1%}, {one.high:+.1%}]"


def _srm(one: SrmCheck | NotComputable) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else f"{'BROKEN' if one.broken else 'ok'}, p = {one.p_value:.3g}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"
