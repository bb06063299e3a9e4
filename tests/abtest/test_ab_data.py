"""Two public experiments, read in place where they are: what CUPED, the ratio check and a cap say of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from abtest.cuped import NO_GAIN, Adjusted, Paired, adjust
from abtest.estimate import Estimate, difference, lift
from abtest.srm import SrmCheck, srm
from abtest.stats import Mean, Proportion
from tests.abtest.vectors import SHARED

FOLDER = SHARED / "data" / "ab_tests"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not here")
CAP = 500.0  # rounds; declared for a game whose players finish a few hundred


def read(path: Path) -> pl.DataFrame:
    return pl.read_csv(gzip.decompress(path.read_bytes()), infer_schema_length=None)


def test_hillstrom_cuped_gains_nothing_and_is_not_used() -> None:
    rows = read(FOLDER / "hillstrom" / "hillstrom_email_experiment.csv.gz")
    arms = {name: rows.filter(pl.col("segment") == name) for name in ("No E-Mail", "Mens E-Mail", "Womens E-Mail")}
    control = arms["No E-Mail"]
    for name in ("Mens E-Mail", "Womens E-Mail"):
        found = adjust(*(Paired.of(arm["spend"], arm["history"]) for arm in (arms[name], control)))
        assert isinstance(found, Adjusted)
        assert abs(found.gain) < 0.002 < NO_GAIN
    men = difference(Mean.of(arms["Mens E-Mail"]["spend"]), Mean.of(control["spend"]))
    assert isinstance(men, Estimate) and men.low > 0 and men.value == pytest.approx(0.770, abs=1e-3)
    check = srm({name: len(arm) for name, arm in arms.items()}, dict.fromkeys(arms, 1.0))
    assert isinstance(check, SrmCheck) and not check.broken


def test_cookie_cats_ratio_is_suspicious_but_no_alarm_and_its_outlier_is_capped() -> None:
    rows = read(FOLDER / "cookie_cats" / "cookie_cats.csv.gz")
    gates = {name: rows.filter(pl.col("version") == name) for name in ("gate_30", "gate_40")}
    units = {name: len(arm) for name, arm in gates.items()}
    check = srm(units, {"gate_30": 0.5, "gate_40": 0.5})
    assert isinstance(check, SrmCheck)
    assert (round(check.chi_square, 2), round(check.p_value, 3), check.broken) == (6.90, 0.009, False)
    rounds = [gates[name]["sum_gamerounds"].to_numpy() for name in ("gate_40", "gate_30")]
    assert max(int(one.max()) for one in rounds) == 49_854
    raw = lift(*(Mean.of(one) for one in rounds))
    capped = lift(*(Mean.of(np.minimum(one, CAP)) for one in rounds))
    assert isinstance(raw, Estimate) and isinstance(capped, Estimate)
    assert raw.value == pytest.approx(-0.0221, abs=1e-4)  # one player in 90,189 makes most of it
    assert abs(capped.value) < 0.015
    assert (capped.variance or 1) < 0.5 * (raw.variance or 0)
    week = [gates[name]["retention_7"].cast(pl.String).str.to_lowercase() == "true" for name in ("gate_40", "gate_30")]
    kept = lift(*(Proportion(len(one), int(one.sum())) for one in week))
    assert isinstance(kept, Estimate) and kept.high < 0
