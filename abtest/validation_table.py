"""What `validate` counted, as Markdown tables beside what was promised."""

from __future__ import annotations

from abtest.metrics import METRICS
from abtest.simulate import FIRST_DAY_OF_CRASH, World
from abtest.validate import ALL_DOMAINS, METHODS, Rates


def tables(nothing: Rates, planted: Rates, crash: Rates, predicted: dict[str, float], world: World) -> str:
    """nothing: of A/A; planted: of A/B; crash: of experiments whose treated arm falls silent; predicted: power by metric."""
    lines = [
        f"A/A, {nothing.experiments:,} experiments of {world.users:,} users and {world.days} days: share called different from 0"
    ]
    lines += ["at the last day / 95% intervals that cover / share called different on any day", "", *_table(nothing, True)]
    lines += [
        "",
        f"A/B, {planted.experiments:,} experiments: share found at the last day (predicted for fixed) / intervals that cover",
        "",
    ]
    lines += _table(planted, False, predicted)
    parts = ", ".join(f"{part} {low:.1%} to {high:.1%}" for part, (low, high) in _by_domain(nothing, world).items())
    lines += ["", f"A/A in each domain, fixed, least and most over metrics: {parts}."]
    lines.append(
        f"Any of {len(METRICS) * (1 + len(world.domains))} lifts found after Holm: {nothing.family / nothing.experiments:.1%}."
    )
    for name, rates in (("A/A", nothing), ("A/B", planted), ("crash", crash)):
        lines.append(
            f"Split alarms, {name}: last day {rates.srm / rates.experiments:.2%}, "
            f"any day {rates.srm_ever / rates.experiments:.2%}."
        )
    named = crash.first_days[FIRST_DAY_OF_CRASH] / crash.experiments
    lines.append(f"Crash on day {FIRST_DAY_OF_CRASH}: the diagnosis names that day first in {named:.1%}.")
    return "\n".join(lines) + "\n"


def _table(rates: Rates, peeking: bool, predicted: dict[str, float] | None = None) -> list[str]:
    head = ["metric", *METHODS, "CUPED's gain"]
    rows = [head, ["---"] * len(head)]
    for metric in METRICS:
        cells = []
        for method in METHODS:
            key = (ALL_DOMAINS, metric, method)
            found, covered = rates.rate(rates.found, key), rates.rate(rates.covered, key)
            told = f" ({predicted[metric]:.1%})" if predicted and method == "fixed" and metric in predicted else ""
            ever = f" / {rates.ever_found[metric, method] / rates.experiments:.1%}" if peeking else ""
            cells.append(f"{found:.1%}{told} / {'-' if covered != covered else format(covered, '.1%')}{ever}")
        rows.append([metric, *cells, f"{rates.gain[metric] / 1000 / rates.experiments:.1%}"])
    return [f"| {' | '.join(row)} |" for row in rows]


def _by_domain(rates: Rates, world: World) -> dict[str, tuple[float, float]]:
    found = {domain: [rates.rate(rates.found, (domain, metric, "fixed")) for metric in METRICS] for domain in world.domains}
    return {domain: (min(values), max(values)) for domain, values in found.items()}
