"""What is told of measured nights and swaps."""

from __future__ import annotations

from datetime import UTC, datetime

from contracts.nights import NightRecord, NightStep
from loadtests.nights import Measured, table
from loadtests.swap import Answer, Swap, divided


def measured(name: str, rows: int, seconds: float, **steps: float) -> Measured:
    record = NightRecord.begin(datetime(2026, 11, 22, tzinfo=UTC))
    record.seconds = seconds
    record.steps = [NightStep(name=step, seconds=value, reused=False) for step, value in steps.items()]
    return Measured(name, rows, record, cpu_s=2 * seconds, peak_mib=1234.4)


def test_a_night_is_a_row_a_step() -> None:
    lines = table([measured("kuairand", 5000, 90.0, tables=1.25, train=80.0)]).splitlines()
    assert lines[:2] == ["| step | kuairand, s |", "|---|---:|"]
    assert lines[2:5] == ["| tables | 1.2 |", "| train | 80.0 |", "| the whole night | 90.0 |"]
    assert lines[5:] == ["| processor seconds | 180.0 |", "| peak of memory, MiB | 1,234 |", "| rows | 5,000 |"]


def test_of_two_nights_it_says_how_often_the_first_and_nothing_of_a_step_that_one_lacks() -> None:
    lines = table([measured("small", 10, 4.0, train=2.0), measured("large", 100, 12.0, train=9.0, more=1.0)]).splitlines()
    assert "| train | 2.0 | 9.0 | 4.5 |" in lines and "| more |  | 1.0 |  |" in lines
    assert "| the whole night | 4.0 | 12.0 | 3.0 |" in lines and lines[-1] == "| rows | 10 | 100 | 10.0 |"


def test_a_request_is_of_a_swap_when_it_was_under_way_between_the_move_and_the_first_answer() -> None:
    before, into, inside, across, after = (Answer(*times, "b", "") for times in ((0, 1), (0, 3), (4, 5), (5, 9), (6, 7)))
    met, others = divided([before, into, inside, across, after], [Swap(2, 6)])
    assert met == [into, inside, across] and others == [before, after]
