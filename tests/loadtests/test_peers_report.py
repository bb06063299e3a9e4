"""The arithmetic of a comparison: ratios within rounds, rates that are held, what a table says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from loadtests.peers import report
from loadtests.peers.report import Point, Window


def window(server: str, number: int, per_second: float, callers: int = 8, **other: float) -> Window:
    values = {"cpu_ms": 2.0, "p50_ms": 3.0, "p99_ms": 9.0, "failures": 0, "degraded": 0.0, **other}
    return Window(server, callers, number, per_second, **values)  # type: ignore[arg-type]


def point(rate: float, p99_ms: float, right: int = 1000, sent: int = 1000) -> Point:
    return Point("ours", rate, p99_ms / 2, p99_ms, sent, right, 0)


# A slow second round: the ratio of medians would be 400 / 20, that within rounds is 10.
WINDOWS = [
    *(window("ours", at, rate) for at, rate in enumerate((400.0, 100.0, 420.0))),
    *(window("theirs", at, rate) for at, rate in enumerate((40.0, 10.0, 20.0))),
    window("ours", 0, 900.0, callers=64),
]


def test_ratios_are_taken_within_rounds_and_numbers_of_callers() -> None:
    assert report.ratios(WINDOWS, "ours", "theirs", 8) == [10.0, 10.0, 21.0]
    assert report.ratios(WINDOWS, "theirs", "ours", 8) == [0.1, 0.1, pytest.approx(20 / 420)]
    assert report.ratios(WINDOWS, "ours", "theirs", 64) == []


def test_a_round_in_which_one_side_answered_nothing_has_no_ratio() -> None:
    silent = [window("ours", 0, 100.0), window("theirs", 0, 0.0), window("ours", 1, 100.0), window("theirs", 1, 50.0)]
    assert report.ratios(silent, "ours", "theirs", 8) == [2.0]


def test_spread_is_median_least_and_most() -> None:
    found = report.spread([3.0, 1.0, 2.0, 10.0])
    assert (found.middle, found.low, found.high) == (2.5, 1.0, 10.0)
    assert str(report.spread([0.12345, 1234.5, 7.0])) == "7 [0.123, 1234]"
    assert math.isnan(report.spread([]).middle)


def test_capacity_is_the_best_median_over_the_numbers_of_callers() -> None:
    assert report.capacity(WINDOWS, "ours") == 900.0
    assert report.capacity(WINDOWS[:3], "ours") == 400.0


def test_a_rate_is_held_when_it_is_quick_and_nearly_all_answers_are_right() -> None:
    held, slow, refusing = point(100, 60.0), point(200, 60.1), point(300, 5.0, right=998)
    assert [one.holds for one in (held, slow, refusing)] == [True, False, False]
    assert point(300, 5.0, right=999).holds
    assert report.highest_rate([held, slow, refusing]) == 100
    assert report.highest_rate([slow]) == 0


def test_the_next_rate_lies_between_the_highest_held_and_the_lowest_above_it_that_was_not() -> None:
    assert report.next_rate([point(100, 1.0), point(200, 99.0), point(300, 99.0)], most=400) == 150
    assert report.next_rate([point(100, 1.0), point(200, 1.0)], most=230) == 215
    assert report.next_rate([point(100, 99.0)], most=230) == 50
    # A lucky rate above an unlucky one counts: what was held was held.
    assert report.next_rate([point(100, 99.0), point(200, 1.0), point(300, 99.0)], most=400) == 250


def test_the_closed_table_has_one_row_a_server_and_the_ratio_of_the_others() -> None:
    lines = report.closed_table(WINDOWS, ["ours", "theirs"], 8, "ours").splitlines()
    ours, theirs = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[-2:])
    assert ours == ["ours", "400 [100, 420]", "", "2 [2, 2]", "3", "9", "0", "0.0%"]
    assert theirs[:3] == ["theirs", "20 [10, 40]", "10 [10, 21]"]


def test_wrong_answers_are_added_up_over_rounds() -> None:
    broken = [replace(one, failures=2) for one in WINDOWS]
    assert "| 6 |" in report.closed_table(broken, ["ours"], 8, "ours").splitlines()[-1]


def test_the_open_table_says_how_much_more_one_holds() -> None:
    points = [point(300, 20.0), point(600, 80.0), replace(point(30, 50.0), server="theirs")]
    points.append(replace(point(3, math.inf, 0), server="stuck"))
    windows = [*WINDOWS, window("stuck", 0, 1.0)]
    lines = report.open_table(points, ["ours", "theirs", "stuck"], windows, "ours").splitlines()[-3:]
    assert lines[0].startswith("| ours | 300 |  | 900 | 300: 10 / 20 (0 of 1000) · 600: 40 / 80")
    assert lines[1].startswith("| theirs | 30 | 10.0 | 20 |")
    assert lines[2].startswith("| stuck | 0 |  | 1 |")


def test_cpu_is_divided_by_the_kernels_of_the_same_round() -> None:
    windows = [window("ours", 0, 1.0, cpu_ms=3.0), window("ours", 1, 1.0, cpu_ms=8.0), window("theirs", 0, 1.0, cpu_ms=99.0)]
    kernels = [{"rank": 1500.0, "search": 500.0}, {"rank": 3000.0, "search": 1000.0}]
    line = report.kernels_line(windows, "ours", kernels)
    assert "is 1.75 [1.5, 2] times the sum of its bare kernels, 3 ms: rank 2.250, search 0.750" in line


def test_what_was_not_measured_is_null_in_json() -> None:
    (found,) = report.as_json([point(3, math.inf)])
    assert found["p99_ms"] is None and found["p50_ms"] is None and found["rate"] == 3
