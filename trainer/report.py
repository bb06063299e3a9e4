"""An evaluation for people: Markdown for the terminal, an HTML page with plots for the desk."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import Any

from trainer import summary
from trainer.summary import BY_DOMAIN, Table

_INTERVALS = (
    "Differences: mean [95% interval over users, who are drawn with replacement] ± standard deviation over seeds; * = the"
    " interval is on one side of 0."
)


def to_markdown(result: Mapping[str, Any]) -> str:
    """A line a recipe (mean ± standard deviation over seeds), then by domain, then differences, then what was left out."""
    lines = [f"**{result['dataset']}**: {result['protocol']}", "", f"`{result['signature']}`", ""]
    lines += _markdown(summary.overview(result))
    for title, table in _tables(result).items():
        lines += ["", title, "", *_markdown(table)]
    notes = summary.notes(result)
    lines += ["", "Left out:", *(f"- {one}" for one in notes)] if notes else []
    return "\n".join([*lines, "", f"{result['wall_seconds']:,.0f} s"]) + "\n"


def to_html(result: Mapping[str, Any]) -> str:
    """A page of its own: no script, no file and no address outside it."""
    from trainer.plots import figures, png  # only a report needs matplotlib, and it is slow to import

    said = [result["protocol"], result["signature"], f"{result['wall_seconds']:,.0f} s"]
    parts = [f"<h1>{html.escape(result['dataset'])}</h1>", *(f"<p>{html.escape(one)}</p>" for one in said)]
    parts.append(_html(summary.overview(result)))
    for title, figure in figures(result).items():
        image = base64.b64encode(png(figure)).decode()
        parts += [f"<h2>{html.escape(title)}</h2>", f'<img alt="{html.escape(title)}" src="data:image/png;base64,{image}">']
    for title, table in _tables(result).items():
        parts += [f"<h2>{html.escape(title)}</h2>", _html(table)]
    notes = "".join(f"<li>{html.escape(one)}</li>" for one in summary.notes(result))
    parts.append(f"<h2>Left out</h2><ul>{notes}</ul>" if notes else "")
    return _PAGE.format(title=html.escape(f"Evaluation of {result['dataset']}"), body="\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1d2733 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; display: block; overflow-x: auto }}
th, td {{ border-bottom: 1px solid #d5dce4; padding: .3rem .7rem; text-align: right; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100% }}
</style></head><body>
{body}
</body></html>
"""


def _tables(result: Mapping[str, Any]) -> dict[str, Table]:
    """All but the overview, by title."""
    by_domain = {title: summary.domain_table(result, pick) for title, pick in BY_DOMAIN.items()}
    found = {title: table for title, table in by_domain.items() if table[1]}
    cold = summary.cold_table(result)
    found |= {"AUC by history of users and ads, within domains": cold} if cold[1] else {}
    differences = summary.difference_tables(result)
    for at, (title, table) in enumerate(differences.items()):
        found[f"{title}. {_INTERVALS}" if at == 0 else title] = table
    return found


def _markdown(table: Table) -> list[str]:
    header, body = table
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return ["| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in cells]


def _html(table: Table) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(one)}</{tag}>" for one in cells) + "</tr>"

    header, body = table
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{''.join(line(one, 'td') for one in body)}</tbody></table>"
