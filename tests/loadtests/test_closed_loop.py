"""Callers that ask again once answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fake_gateway import gateway, write_dataset

from loadtests.closed_loop import Answered, call
from loadtests.traffic import Traffic


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic.read(write_dataset(tmp_path), seed=0)


def test_every_answer_is_counted_once(traffic: Traffic) -> None:
    with gateway() as server:
        found = asyncio.run(call(server.url, traffic, callers=4, seconds=0.2))
        assert len(found.latency) == server.asked["/v1/recommend"] == found.rungs["full service"] > 4
    assert not found.failures and 0 < min(found.latency) <= max(found.latency) < found.elapsed
    assert found.elapsed >= 0.2
    assert found.per_second == pytest.approx(len(found.latency) / found.elapsed)


def test_a_wrong_answer_is_a_failure_and_not_a_rate(traffic: Traffic) -> None:
    with gateway("empty") as server:
        found = asyncio.run(call(server.url, traffic, callers=2, seconds=0.05))
    assert found.failures["no ads"] > 0 and not found.latency and found.per_second == 0


def test_nothing_measured_is_no_rate() -> None:
    assert Answered().per_second == 0.0
