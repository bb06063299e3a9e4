"""A replay for a person: notes in words, and a table of estimates."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from abtest.estimate import Estimate
from abtest.offpolicy import Evaluation
from abtest.stats import NotComputable
from deploy.replay import Replay

_SHOWN = (
    ("as shown", "logged"),
    ("IPS", "ips"),
    ("SNIPS", "snips"),
    ("doubly robust", "doubly_robust"),
    ("model alone", "direct"),
)


def notes(found: Replay) -> Iterator[str]:
    explore = found.explore
    where = ", ".join(f"{name} {count:,}" for name, count in sorted(found.domains.items()))
    yield f"{found.recipe} by bundle {found.bundle_id}, drawing among {explore.among} at temperature {explore.temperature:g}"
    yield f"{found.requests:,} requests with a drawn slate replayed{f' ({where})' if where else ''}, first {found.places} places"
    for reason, count in sorted(found.left_out.items()):
        yield f"{count:,} left out: {reason}"
    for metric, one in found.metrics.items():
        yield (
            f"{metric}: {one.users:,} users, {one.effective_users:,.0f} effective ({one.share_left:.0%} of what equal weights "
            f"leave), {one.effective_rewarded:,.0f} with a reward, mean weight {_cell(one.mean_weight)}"
        )
        refused = {one.ips.reason} if isinstance(one.ips, NotComputable) else set()
        yield from (f"{metric} cannot be computed: {reason}" for reason in refused)
    if found.folded:
        yield "this bundle folds clicks into user rows live, so its rows may know of clicks that came after a request"


def table(found: Replay) -> Table:
    """One row a metric; cells: value [95% interval]."""
    made = Table("metric", *(title for title, _ in _SHOWN))
    for metric, one in found.metrics.items():
        made.add_row(metric, *(_cell(_of(one, name)) for _, name in _SHOWN))
    return made


def _of(one: Evaluation, name: str) -> Estimate | float | NotComputable:
    value: Estimate | float | NotComputable = getattr(one, name)
    return value


def _cell(value: Estimate | float | NotComputable) -> str:
    if isinstance(value, NotComputable):
        return "(none)"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value.value:.4g} ({value.low:.4g} to {value.high:.4g})"
