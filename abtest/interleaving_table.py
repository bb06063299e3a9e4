"""The simulation of interleaving as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from abtest.validate_interleaving import METHODS, Needed, Rates


def needed_table(found: Mapping[str, Sequence[Needed]], requests_a_user: float) -> str:
    """By setting, the draws of it: means, and the ratio's standard deviation over draws; clicks: of interleaved slates, relative
    to the rankers' own."""
    head = (
        "| setting | slates share | lift of a split | margin | users, split | interleaved | requests of these | ratio | clicks |"
    )
    return "\n".join([head, "|---" * 9 + "|", *_settings(found, requests_a_user)])


def _settings(found: Mapping[str, Sequence[Needed]], requests_a_user: float) -> Iterator[str]:
    for name, draws in found.items():
        overlap, lift, margin, split, ours, kept = (
            float(np.mean([getattr(one, part) for one in draws]))
            for part in ("overlap", "lift", "margin", "split", "interleaved", "kept")
        )
        ratios = [one.ratio for one in draws]
        spread = f" ± {np.std(ratios, ddof=1):.1f}" if len(ratios) > 1 else ""
        yield (
            f"| {name} | {overlap:.0%} | {lift:+.1%} | {margin:+.3f} | {split:,.0f} | {ours:,.0f} | "
            f"{split * requests_a_user:,.0f} : {ours * requests_a_user:,.0f} | {np.mean(ratios):.1f}{spread} | {kept:.1%} |"
        )


def rates_table(found: Mapping[str, Rates]) -> str:
    """By setting, the share of experiments that call the rankers different, by method; and the mean margin."""
    lines = ["| setting | experiments | " + " | ".join(METHODS) + " | mean margin |", "|---" * (len(METHODS) + 3) + "|"]
    for name, rates in found.items():
        shares = " | ".join(f"{rates.share(method):.1%}" for method in METHODS)
        mean, error = rates.bias
        lines.append(f"| {name} | {rates.experiments:,} | {shares} | {mean:+.4f} ± {error:.4f} |")
    return "\n".join(lines)
