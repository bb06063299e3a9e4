"""An interleaving's report for people. What has no number says why."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from abtest.estimate import Estimate, Result
from abtest.preference import ALL, Preference, PreferenceReport
from abtest.stats import NotComputable

_HEAD = (
    *("domain", "users", "with credit", "clicks", "margin", "at every look", "revenue margin"),
    *("users prefer", "mean preference", "sign test"),
)


def to_markdown(report: PreferenceReport) -> str:
    rule = ["---"] * len(_HEAD)
    lines = [_row(list(cells)) for cells in (_HEAD, rule, *_rows(report))]
    head = [f"## Interleaving in arm {report.arm}", "", *(f"- {note}" for note in notes(report)), ""]
    return "\n".join(head + lines) + "\n"


def to_table(report: PreferenceReport) -> Table:
    """A column a slice, so that it fits a terminal."""
    title = f"{report.experiment}, arm {report.arm}: 1 is {report.recipes[0]}, 2 is {report.recipes[1]}"
    table = Table(title=Text(title), title_justify="left")
    for at, line in enumerate(zip(_HEAD, *_rows(report), strict=True)):
        if at == 0:
            for column, name in enumerate(line):
                table.add_column(Text("" if column == 0 else name), justify="right" if column else "left")
        else:
            table.add_row(*map(Text, line))
    return table


def notes(report: PreferenceReport) -> list[str]:
    """What the numbers rest on, and what they say."""
    first, second = report.recipes
    lines = [
        f"{report.arm} interleaves 1 = {first} and 2 = {second}: from -1, all clicks on 1's picks, to +1, all on 2's; "
        f"users as units; {report.plan.confidence:.0%} intervals; p in domains corrected by Holm.",
        verdict(report),
    ]
    if report.alone:
        lines.append(f"{report.alone:,} answers of the arm came from one recipe alone and count for neither.")
    if report.others:
        lines.append(f"{report.others:,} answers were by other recipes than these and are left out.")
    return lines


def verdict(report: PreferenceReport) -> str:
    """One sentence, by the interval that the plan judges by."""
    judged = report.overall.always_valid if report.plan.sequential else report.overall.margin
    if isinstance(judged, NotComputable):
        return f"No preference can be computed: {judged.reason}."
    if judged.low <= 0 <= judged.high:
        return f"No sure preference between {report.recipes[0]} and {report.recipes[1]}: {_estimate(judged)}."
    return f"Users prefer {report.recipes[judged.value > 0]}: {_estimate(judged)}."


def _rows(report: PreferenceReport) -> Iterator[list[str]]:
    for name, one in ((ALL, report.overall), *report.domains.items()):
        prefer = f"{one.prefer[0]:,} : {one.prefer[1]:,}, {one.prefer[2]:,} even"
        sign = f"({one.sign_p.reason})" if isinstance(one.sign_p, NotComputable) else f"p {one.sign_p:.2g}"
        yield [
            *(name, f"{one.users:,}", f"{one.credited:,}", f"{one.clicks[0]:,} : {one.clicks[1]:,}"),
            *(_result(one.margin), _always(one), _result(one.revenue_margin), prefer, _result(one.mean), sign),
        ]


def _always(one: Preference) -> str:
    if isinstance(one.always_valid, NotComputable):
        return f"({one.always_valid.reason})" if isinstance(one.margin, Estimate) else ""
    p_value = one.always_valid.p_value if one.holm_p is None else one.holm_p
    return f"[{one.always_valid.low:+.3f}, {one.always_valid.high:+.3f}], p {p_value:.2g}"


def _result(one: Result) -> str:
    return f"({one.reason})" if isinstance(one, NotComputable) else _estimate(one)


def _estimate(one: Estimate) -> str:
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
