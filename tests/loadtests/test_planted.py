"""What the table of planted worlds says of a report."""

from __future__ import annotations

from loadtests.planted import PLANTED, above_planted, margin
from trainer.attribution import DomainSensitivity


def _report(**divergence: float) -> list[DomainSensitivity]:
    planted = {name: 2.0 + at for at, name in enumerate(sorted(PLANTED))}
    return [DomainSensitivity(name, "categorical", 0, 0, 0, 0, value) for name, value in {**planted, **divergence}.items()]


def test_margin_is_between_the_lowest_planted_and_the_highest_other() -> None:
    lowest = min(PLANTED)
    assert margin(_report(hour=0.5, price=1.5)) == ((lowest, 2.0), ("price", 1.5))
    assert above_planted(_report(hour=0.5, price=1.5)) == []
    assert above_planted(_report(hour=2.5, price=9.0, network=1.0)) == ["price", "hour"]
