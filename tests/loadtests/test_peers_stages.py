"""The table of stages reads the gateway's own metrics, over all domains, and between two readings."""

from __future__ import annotations

import inspect

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from loadtests.peers import stages
from server import stages as served
from server.metrics import Metrics


def test_sums_are_over_domains_and_a_stage_is_told_by_what_was_gained_between_two_readings() -> None:
    registry = CollectorRegistry()
    histogram = Histogram(stages._STAGE, "Time of one stage of a request.", ["stage", "domain"], registry=registry)

    def seen(stage: str, domain: str, *seconds: float) -> None:
        for one in seconds:
            histogram.labels(stage, domain).observe(one)

    seen("rank", "feed", 9.0)
    before = stages.stage_sums(generate_latest(registry).decode())
    seen("rank", "feed", 0.001, 0.003)
    seen("rank", "search", 0.005)
    seen("select", "feed", 0.002)
    after = stages.stage_sums(generate_latest(registry).decode())
    assert stages.between(before, after) == pytest.approx({"rank": 3.0, "select": 2.0})


def test_its_stages_are_the_gateways() -> None:
    assert " -> ".join(stages.STAGES) in (served.__doc__ or "")
    assert f'"{stages._STAGE}"' in inspect.getsource(Metrics)


def test_what_is_no_stages_is_told_of_a_lone_caller_only() -> None:
    one = dict.fromkeys(stages.STAGES, 0.5)
    lines = stages.table({1: [{**one, "cpu": 4.0}], 8: [{**one, "cpu": 2.0}]}).splitlines()
    assert [cell.strip() for cell in lines[-2].split("|")[-5:-1]] == ["0.50", "3.00", "4.00", "1.00"]
    assert [cell.strip() for cell in lines[-1].split("|")[-4:-1]] == ["3.00", "2.00", ""]
