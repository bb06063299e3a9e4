"""The validation of off-policy estimates, on files of Open Bandit's form and on a few simulated logs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from abtest.estimate import Estimate
from abtest.offpolicy import NO_LIMITS, Limits
from abtest.simulate_slates import SlateWorld
from abtest.validate_slates import cover
from loadtests import offpolicy
from loadtests.open_bandit import ITEMS, PLACES, Rows, both_ways

ROWS = 3_000
RATES = np.linspace(0.05, 0.5, ITEMS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies on one world: uniform, and one in proportion to the click rates."""
    found = tmp_path_factory.mktemp("open-bandit")
    rng = np.random.default_rng(0)
    for name, chances in (("random", np.full(ITEMS, 1 / ITEMS)), ("bts", RATES / RATES.sum())):
        item, place = rng.choice(ITEMS, ROWS, p=chances), rng.integers(1, PLACES + 1, ROWS)
        click = (rng.random(ROWS) < RATES[item]).astype(int)
        frame = pl.DataFrame({"item_id": item, "position": place, "click": click, "propensity_score": chances[item]})
        path = found / name / "men" / "men.csv.gz"
        path.parent.mkdir(parents=True)
        frame.write_csv(path, compression="gzip")
    return found


def test_each_policy_is_estimated_from_the_others_log(directory: Path) -> None:
    rows = list(both_ways(directory))
    assert len(rows) == 9
    expected = {"Thompson's log": float(RATES.mean()), "uniform log": float(RATES @ RATES / RATES.sum())}
    for row in rows:
        (law,) = (value for start, value in expected.items() if row.direction.startswith(start))
        assert isinstance(row.free, Estimate) and row.limited == row.free
        assert row.free.low < law < row.free.high and row.truth.low < law < row.truth.high
        assert abs(row.gap) < 3
        assert (row.policy_error > 0) == row.direction.startswith("uniform")
    uniform, thompson = Rows.read(directory, "random"), Rows.read(directory, "bts")
    first, second = thompson.halves()
    assert len(first.item) == len(second.item) == ROWS // 2
    shares = first.counts() / first.counts().sum(axis=1, keepdims=True)
    by_hand = np.mean(ITEMS * shares[uniform.place, uniform.item] * uniform.clicked)
    ips = next(row for row in rows if row.name == "ips" and row.direction.endswith("first half"))
    assert isinstance(ips.free, Estimate) and ips.free.value == pytest.approx(by_hand)
    assert isinstance(ips.evaluation.ips, Estimate) and isinstance(ips.evaluation.ips.variance, float)
    assert ips.free.variance == pytest.approx(ips.evaluation.ips.variance + ips.policy_error**2)
    assert (ips.truth_rows, ips.truth.value) != (ROWS, thompson.truth().value)


def test_what_is_refused_is_counted_apart_from_what_covers() -> None:
    world = SlateWorld(users=200)
    given, refused = cover(world, range(4), 3, NO_LIMITS), cover(world, range(4), 3, Limits(users=1e6))
    assert (given.logs, given.computed, refused.computed) == (4, 4, 0)
    assert refused.rate("ips") != refused.rate("ips")
    assert 0 < given.share_left / 4 < 1 and given.effective_users < 4 * 200


def test_the_tables_are_printed(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(offpolicy, "SCENARIOS", offpolicy.SCENARIOS[:1])
    monkeypatch.setattr(sys, "argv", ["offpolicy", "--open-bandit", str(directory), "--repetitions", "2"])
    offpolicy.main()
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.startswith("| ")]) == 1 + 9 + 1 + 1
    assert "| same temperature: 1 to 1, apart 0.4 | 1,000 |" in said
