"""The real files, where they are at hand: MDREC_TEST_DATA, or shared/data beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from trainer.datasets import ADAPTERS, Dataset
from trainer.datasets.check import check

DATA = Path(os.environ.get("MDREC_TEST_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")


def imported(adapter: str, folder: str, to: Path) -> tuple[Dataset, list[str]]:
    if not (DATA / folder).is_dir():
        pytest.skip(f"{DATA / folder} is not here")
    notes = ADAPTERS[adapter](DATA / folder, to)
    report = check(to)
    assert report.ok, str(report)
    return Dataset.open(to), notes


def test_kuairand(tmp_path: Path) -> None:
    dataset, notes = imported("kuairand", "kuairand_pure", tmp_path / "d")
    assert notes[0] == "171,671 log rows read, 4,390 exact duplicates dropped, 167,281 events written"
    rates = dataset.scan_events().group_by("domain").agg(pl.col("label").mean()).collect()
    by_tab = dict(rates.iter_rows())
    assert [round(by_tab[tab], 2) for tab in ("1", "0", "4")] == [0.50, 0.08, 0.60]
    users = dataset.users()
    assert users is not None
    assert users.collect().height == 27_285


def test_xmrec(tmp_path: Path) -> None:
    dataset, notes = imported("xmrec", "xmrec_wsdm22", tmp_path / "d")
    assert [one.split(",")[0] for one in notes] == ["s1: 76", "s2: 48", "s3: 23"]
    lists = dataset.candidates("test")
    assert lists is not None
    joined = dataset.split_scans().test.join(lists, on=["user_id", "domain"]).collect()
    assert joined.height == 6_466 + 7_109 + 3_328
    assert joined.select(pl.col("ad_ids").list.contains(pl.col("ad_id")).all()).item()
    assert joined["ad_ids"].list.len().unique().to_list() == [100]
    places = [ads.index(ad) for ad, ads in zip(joined["ad_id"], joined["ad_ids"].to_list(), strict=True)]
    assert abs(sum(places) / len(places) - 49.5) < 1.5  # shuffled: the positive's place says nothing


@pytest.mark.parametrize(("adapter", "train", "domains"), [("edda_aliccp", 247_530, 3), ("edda_aliad", 284_861, 8)])
def test_edda(tmp_path: Path, adapter: str, train: int, domains: int) -> None:
    dataset, _ = imported(adapter, adapter, tmp_path / "d")
    assert len(dataset.domains()) == domains
    assert dataset.scan_events().filter(pl.col("split") == "train").select(pl.len()).collect().item() == train


def test_open_bandit(tmp_path: Path) -> None:
    dataset, _ = imported("open_bandit", "open_bandit", tmp_path / "d")
    assert dataset.domains() == ["men-1", "men-2", "men-3"]
    by_policy = dataset.scan_events(["policy"]).group_by("policy").agg(pl.len(), pl.col("label").mean()).collect()
    assert {row["policy"]: (row["len"], round(row["label"], 4)) for row in by_policy.to_dicts()} == {
        "random": (10_000, 0.0046),
        "bts": (10_000, 0.0069),
    }
