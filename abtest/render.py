"""A report for people: Markdown for files, rich tables for terminals. What has no number says why."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from abtest.analyze import METRICS, ArmReport, ExperimentReport, Slice, slices
from abtest.stats import Estimate, NotComputable, SrmCheck

_COLUMNS = ["domain", "arm", "units", "impressions", "clicks", "conversions", "revenue"]


def to_markdown(report: ExperimentReport) -> str:
    header = _header(report)
    lines = [f"# Experiment {report.experiment}", "", *notes(report), "", _row(header), _row(["---"] * len(header))]
    lines += [_row([cell.replace("|", "\\|") for cell in cells]) for cells in _cells(report)]
    return "\n".join(lines) + "\n"


def to_tables(report: ExperimentReport) -> list[Table]:
    """One table a domain (overall first), a column an arm: it fits a terminal of 80 columns with two arms."""
    return [_domain_table(report, domain, part) for domain, part in slices(report)]


def _domain_table(report: ExperimentReport, domain: str, part: Slice) -> Table:
    table = Table(title=Text(f"{report.experiment} in {domain}, split {_srm(part.srm)}"), title_justify="left")
    table.add_column("")
    for arm in part.arms:
        table.add_column(Text(f"{arm.arm} ({arm.recipe})" if arm.recipe else arm.arm), justify="right")
    for name in ("units", "impressions", "clicks", "conversions"):
        table.add_row(name, *(f"{getattr(arm, name):,}" for arm in part.arms))
    table.add_row("revenue", *(f"{arm.revenue:,.2f}" for arm in part.arms))
    for name in METRICS:
        table.add_row(name, *(Text(_value(arm.values[name])) for arm in part.arms))
        table.add_row(f"  vs {report.control}", "", *(Text(_lift(arm.lifts[name])) for arm in part.arms[1:]))
    return table


def _header(report: ExperimentReport) -> list[str]:
    return [*_COLUMNS, *METRICS, *(f"{name} vs {report.control}" for name in METRICS), "SRM"]


def _cells(report: ExperimentReport) -> list[list[str]]:
    return [_arm_cells(domain, arm, part) for domain, part in slices(report) for arm in part.arms]


def _arm_cells(domain: str, arm: ArmReport, part: Slice) -> list[str]:
    first = arm is part.arms[0]
    counts = [arm.units, arm.impressions, arm.clicks, arm.conversions]
    return [
        domain if first else "",
        f"{arm.arm} ({arm.recipe})" if arm.recipe else arm.arm,
        *(f"{count:,}" for count in counts),
        f"{arm.revenue:,.2f}",
        *(_value(arm.values[name]) for name in METRICS),
        *("" if first else _lift(arm.lifts[name]) for name in METRICS),
        _srm(part.srm) if first else "",
    ]


def notes(report: ExperimentReport) -> list[str]:
    """What the numbers rest on, and what is wrong with them."""
    join = report.join
    lines = [
        f"{report.confidence:.0%} intervals, users as units, control: {report.control}.",
        f"Events: {join.joined_events:,} joined, {join.duplicate_events:,} duplicate, {join.orphan_events:,} without exposure, "
        f"{join.late_events:,} late; answers: {join.exposures:,}, {join.duplicate_exposures:,} repeated.",
    ]
    if report.crossed_units:
        lines.append(f"{report.crossed_units:,} users were seen in two arms and are left out.")
    lines += [f"{units:,} users were in the arm {arm!r}, which is not defined." for arm, units in report.unknown_arms.items()]
    check = report.overall.srm
    if isinstance(check, SrmCheck) and check.broken:
        lines.append(f"SAMPLE RATIO MISMATCH (p = {check.p_value:.2g}): do not use these numbers.")
    return lines


def _value(one: Estimate | NotComputable) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"


def _lift(one: Estimate | NotComputable) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else f"{one.value:+.1%} [{one.low:+.1%}, {one.high:+.1%}]"


def _srm(one: SrmCheck | NotComputable) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else f"{'BROKEN' if one.broken else 'ok'}, p = {one.p_value:.3g}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
