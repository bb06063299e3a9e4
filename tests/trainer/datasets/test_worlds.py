"""The two made-up worlds keep their promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import BadInput
from trainer.datasets import Dataset, synth
from trainer.datasets.check import check
from trainer.datasets.checkerboard import DOMAINS as CHECKER_DOMAINS
from trainer.datasets.checkerboard import clicks, write_checkerboard
from trainer.datasets.click_law import DECOYS, DOMAINS, NEUTRAL, SENSITIVE, SHARES, Sizes, World
from trainer.datasets.simulator import SPEC, write_demo


@given(user=st.integers(0, 10**6), ad=st.integers(0, 10**6))
def test_each_pair_is_clicked_in_exactly_one_domain(user: int, ad: int) -> None:
    by_domain = clicks(np.array(user), np.array(ad), np.arange(4))
    assert by_domain.sum() == 1
    assert by_domain[(ad - user) % 4]


@given(seed=st.integers(0, 1000), withheld=st.sampled_from([0.0, 0.1, 0.5]), density=st.sampled_from([0.3, 1.0]))
@settings(max_examples=10, deadline=None)
def test_the_checkerboard_log(tmp_path_factory: pytest.TempPathFactory, seed: int, withheld: float, density: float) -> None:
    path = tmp_path_factory.mktemp("d") / "d"
    write_checkerboard(path, seed, users=24, ads=16, withheld=withheld, density=density)
    events = Dataset.open(path).scan_events().collect()
    user, ad, domain = (events[name].str.slice(1).cast(pl.Int64).to_numpy() for name in ("user_id", "ad_id", "domain"))
    assert (events["label"].to_numpy() == ((user + domain) % 4 == ad % 4)).all()
    assert events["domain"].value_counts()["count"].n_unique() == 1 and events["domain"].n_unique() == len(CHECKER_DOMAINS)
    assert events.select("user_id", "ad_id", "domain").is_duplicated().sum() == 0
    hidden = pl.read_parquet(path / "truth" / "withheld.parquet")
    assert hidden.height == round(withheld * 24 * 16)
    assert events.join(hidden, on=["user_id", "ad_id"]).height == 0
    if density == 1.0 and withheld == 0.0:  # the whole board: nothing that ignores the domain can tell
        assert events.group_by("user_id", "ad_id").agg(pl.col("label").sum())["label"].unique().to_list() == [1.0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "d"
    write_demo(path, seed=3, sizes=Sizes(impressions=60_000))
    return path


@pytest.fixture(scope="module")
def rows(demo: Path) -> pl.DataFrame:
    """Events with their true probabilities and their users' and ads' features."""
    dataset = Dataset.open(demo)
    truth = pl.concat([pl.read_parquet(one) for one in sorted((demo / "truth" / "events").glob("*.parquet"))])
    users, user_domains, ad_domains = dataset.users(), dataset.user_domains(), dataset.ad_domains()
    assert users is not None and user_domains is not None and ad_domains is not None
    frame = dataset.scan_events(["position"]).collect().hstack(truth)
    frame = frame.join(users.collect(), on="user_id", how="left").join(
        user_domains.collect(), on=["user_id", "domain"], how="left"
    )
    return frame.join(ad_domains.collect(), on=["ad_id", "domain"], how="left")


def test_the_demo_world_passes_its_own_check(demo: Path) -> None:
    report = check(demo)
    assert report.ok, str(report)
    assert {one.domain for one in report.domains} == set(DOMAINS)
    assert len(report.days) == 10
    assert all(0.05 < one.click_rate < 0.5 for one in report.domains)


def test_domains_are_unequal_and_share_users_and_ads(rows: pl.DataFrame) -> None:
    counts = dict(rows["domain"].value_counts().iter_rows())
    assert [counts[name] / rows.height for name in DOMAINS] == pytest.approx(SHARES, abs=0.02)
    for key in ("user_id", "ad_id"):
        per_key = rows.group_by(key).agg(pl.col("domain").n_unique())["domain"]
        assert (per_key > 1).mean() > 0.5 and (per_key < 4).mean() > 0.1  # type: ignore[operator]


def test_clicks_follow_the_written_probabilities(rows: pl.DataFrame) -> None:
    bins = rows.with_columns(bin=(pl.col("p_click").rank() * 20 // (rows.height + 1)))
    means = bins.group_by("bin").agg(pl.col("p_click").mean(), pl.col("label").mean(), pl.len())
    error = (means["label"] - means["p_click"]) / (means["p_click"] * (1 - means["p_click"]) / means["len"]).sqrt()
    assert error.abs().max() < 4.5  # type: ignore[operator]


def test_the_world_says_the_same_probability_again(demo: Path, rows: pl.DataFrame) -> None:
    world = World(Sizes(impressions=60_000), seed=3)
    user, ad = (rows[name].str.slice(1).cast(pl.Int64).to_numpy() for name in ("user_id", "ad_id"))
    domain = np.array([DOMAINS.index(one) for one in rows["domain"]])
    first = rows["timestamp"].dt.truncate("1d").min()
    second = ((rows["timestamp"] - first).dt.total_microseconds() // 1_000_000).to_numpy()
    again = world.click_probability(
        user, ad, domain, second / 86_400, rows["hour"].cast(pl.Int64).to_numpy(), rows["position"].to_numpy()
    )
    np.testing.assert_allclose(again, rows["p_click"].to_numpy(), rtol=1e-9)


def divergence(rows: pl.DataFrame, feature: str) -> float:
    """Mean over domain pairs of the total variation between the feature's distributions."""
    explode = rows.schema[feature] == pl.List(pl.String)
    values = rows.select("domain", feature).explode(feature).drop_nulls() if explode else rows.select("domain", feature)
    counts = values.group_by("domain", feature).len().pivot("domain", index=feature, values="len").fill_null(0)
    shares = np.stack([counts[name].to_numpy() / counts[name].sum() for name in DOMAINS])
    return float(np.mean([np.abs(shares[i] - shares[j]).sum() / 2 for i in range(4) for j in range(i)]))


def test_planted_features_differ_by_domain_and_neutral_ones_do_not(rows: pl.DataFrame) -> None:
    planted = [divergence(rows, name) for name in (*SENSITIVE["categorical"], *SENSITIVE["sequence"])]
    neutral = [divergence(rows, name) for name in ("age_band", "network", "hour")]
    assert min(planted) > 2 * max(neutral)
    gaps = rows.group_by("domain").agg(pl.col("days_since_visit").log().mean())["days_since_visit"]
    assert gaps.std() > 0.5  # type: ignore[operator]


def test_the_effect_of_the_planted_number_turns_sign(rows: pl.DataFrame) -> None:
    logit = (pl.col("p_click") / (1 - pl.col("p_click"))).log()
    by_domain = rows.group_by("domain").agg(pl.corr(logit, pl.col("days_since_visit").log()).alias("r"))
    r = dict(by_domain.iter_rows())
    assert r["feed"] > 0.1 and r["search"] < -0.1


def test_lower_positions_are_clicked_less(rows: pl.DataFrame) -> None:
    rate = rows.group_by("position").agg(pl.col("label").mean()).sort("position")["label"]
    assert rate[0] > 1.3 * rate[-1]


def test_ads_drift_over_the_days() -> None:
    world = World(Sizes(), seed=0)
    ad = np.arange(200)
    first, last = (world.click_probability(np.full(200, 7), ad, np.full(200, 1), day, 12, 0) for day in (0.0, 10.0))
    change = np.log(last / (1 - last)) - np.log(first / (1 - first))
    assert 0.4 < change.std() < 0.8 and abs(change.mean()) < 0.2


def test_shown_ads_are_eligible_and_some_are_no_longer_active(demo: Path, rows: pl.DataFrame) -> None:
    assert rows["slot_format"].null_count() == 0
    assert 0.01 < (~rows["active"]).mean() < 0.15  # type: ignore[operator]
    assert (rows["bid"] > 0).all()


def test_every_feature_is_accounted_for_in_the_truth(demo: Path) -> None:
    law = json.loads((demo / "truth" / "law.json").read_text())
    named = {*DECOYS, *NEUTRAL, *(name for names in SENSITIVE.values() for name in names)}
    assert named == {one.name for one in SPEC.features}
    assert law["sensitive"] == SENSITIVE and law["decoys"] == DECOYS
    assert set(law["coefficients"]["days_since_visit"]) == set(DOMAINS)


def test_more_domains_and_larger_decoys(tmp_path: Path) -> None:
    """Each further domain is written, smaller than the one before, with a law of its own; the random ids have more values."""
    sizes = Sizes(users=300, ads=200, impressions=20_000, domains=25, decoys=100_000)
    write_demo(tmp_path / "d", seed=1, sizes=sizes)
    events = Dataset.open(tmp_path / "d").scan_events().collect()
    counts = dict(events["domain"].value_counts().iter_rows())
    assert [counts[name] / events.height for name in sizes.domain_names] == pytest.approx(sizes.shares.tolist(), abs=0.02)
    assert events["session_id"].n_unique() > 0.85 * events.height
    law = json.loads((tmp_path / "d" / "truth" / "law.json").read_text())
    assert len({json.dumps(one) for one in law["coefficients"]["interest"].values()}) == 25
    assert World(sizes, 1).gap_effect_D[:4].tolist() == World(Sizes(), 1).gap_effect_D.tolist()


@pytest.mark.parametrize("world", ["demo", "checkerboard"])
def test_a_seed_fixes_every_byte(tmp_path: Path, world: str) -> None:
    digests = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        synth(world, tmp_path / name, seed=seed, scale=0.1)  # type: ignore[arg-type]
        digests.append(Dataset.open(tmp_path / name).digest())
    assert digests[0] == digests[1] != digests[2]


def test_scale_and_world_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown world 'mars'"):
        synth("mars", tmp_path / "d")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="scale 0 is not positive"):
        synth("demo", tmp_path / "d", scale=0)
    with pytest.raises(BadInput, match="needs two domains"):
        synth("demo", tmp_path / "d", domains=1)
    with pytest.raises(BadInput, match="are the demo's"):
        synth("checkerboard", tmp_path / "d", decoys=10)
