"""Drawn slates in the ledger: joined with what became of them, beside days that were written before there were any."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import redis

from abtest.drain import EXPOSURE, drain
from abtest.explored import explored
from abtest.ledger import exposures, joined
from abtest.units import refresh, units
from contracts.events import ShownAd
from tests.abtest.world import DAY, NOON, exposure, log, outcome


def drawn(request_id: str, **fields):
    ads = [
        ShownAd(ad_id=f"a{at}", position=at, p_click=0.1, rank_score=0.2, bid=1.5, propensity=0.5 - at / 10) for at in range(3)
    ]
    return exposure(request_id, ads=ads, excluded=["a9"], **fields)


def test_drawn_slates_with_what_became_of_them(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        log(
            client,
            [
                exposure("plain"),
                drawn("r2", time=NOON + 2),
                drawn("r1", time=NOON + 1),
                drawn("r1", time=NOON + 3),  # a retry
                outcome("e1", "impression", "r1", ad_id="a1"),
                outcome("e2", "click", "r1", ad_id="a2", value=4.0),
                outcome("e3", "click", "r2", ad_id="a0"),
                outcome("e4", "click", "plain"),
            ],
        )
        drain(client, tmp_path / "events")
    one, two = explored(tmp_path / "events").to_dicts()
    assert (one["request_id"], one["ad_id"], one["propensity"]) == ("r1", ["a0", "a1", "a2"], [0.5, 0.4, 0.3])
    assert (one["clicked"], one["revenue"], one["excluded"]) == ([0.0, 0.0, 1.0], [0.0, 0.0, 4.0], ["a9"])
    assert (two["request_id"], two["clicked"], two["revenue"]) == ("r2", [1.0, 0.0, 0.0], [1.5, 0.0, 0.0])


def test_a_ledger_of_before_is_read_beside_todays(redis_url: str, tmp_path: Path) -> None:
    """Its files have neither propensities nor exclusions."""
    ledger = tmp_path / "events"
    with redis.Redis.from_url(redis_url) as client:
        log(client, [exposure("old"), outcome("e1", "click", "old")])
        drain(client, ledger)
        (path,) = ledger.glob("day=*/exposure-*.parquet")
        frame = pl.read_parquet(path, hive_partitioning=False)
        fields = [one for one in EXPOSURE["ads"].inner.fields if one.name != "propensity"]
        frame.drop("excluded").with_columns(pl.col("ads").cast(pl.List(pl.Struct(fields)))).write_parquet(path)
        assert "propensity" not in str(pl.read_parquet_schema(path))
        log(client, [drawn("new", time=NOON + DAY), outcome("e2", "click", "new", received=NOON + DAY + 5)])
        drain(client, ledger)
    assert exposures(ledger).collect()["request_id"].to_list() == ["old", "new"]
    assert sorted(joined(ledger).collect()["request_id"]) == ["new", "old"]
    assert explored(ledger)["request_id"].to_list() == ["new"]
    refresh(ledger)
    assert units(ledger).collect()["clicks"].sum() == 2
