"""Units of the ledger: the same counts as the joined events have, however they are cut, made once and made again when due."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import redis

from abtest import keyed
from abtest.analyze import ExperimentReport, report
from abtest.compare import Lift
from abtest.drain import drain
from abtest.estimate import Estimate
from abtest.experiments import ExperimentStore
from abtest.forecast import forecast
from abtest.ledger import exposures, join_report, joined
from abtest.phases import phase_start
from abtest.plan import Cap, Plan, declare, load_plan, plan_of
from abtest.ramp import ramp
from abtest.render import notes, to_markdown
from abtest.stats import NotComputable
from abtest.units import join_counts, refresh, units
from contracts.errors import BadInput
from contracts.events import Exposure, Feedback
from tests.abtest.test_assign import ranker
from tests.abtest.world import DAY, NOON, exposure, log, outcome

BEFORE, FIRST = 2, date(2026, 11, 20)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def traffic(users: int, seed: int, days: int = 2, price: float = 1.0) -> list[Exposure | Feedback]:
    """Each user asks in two domains on most days, BEFORE of them before the experiment; some events are repeated, late, of no
    answer, or come before the answer's repeat on the next day."""
    rng = np.random.default_rng(seed)
    taste = rng.beta(2, 3, users)
    events: list[Exposure | Feedback] = []
    for number in range(users):
        arm = "control" if number % 2 else "challenger"
        for day in range(-BEFORE, days):
            for domain in ("feed", "search"):
                if rng.random() < 0.3:
                    continue
                user, request, at = f"u{number}", f"{domain}{number}.{day}", NOON + day * DAY
                events.append(exposure(request, user, arm=arm if day >= 0 else None, domain=domain, time=at))
                if rng.random() < 0.05:
                    events.append(
                        exposure(
                            request, user, arm=arm if day >= 0 else None, domain=domain, time=at + DAY * int(rng.integers(2))
                        )
                    )
                for ad in ("a0", "a1"):
                    got = at + 60 + DAY * (8 if rng.random() < 0.05 else int(rng.random() < 0.1))
                    events.append(outcome(f"i{request}{ad}", "impression", request, user, ad, received=got))
                    if rng.random() < taste[number]:
                        value = float(price * rng.lognormal()) if rng.random() < 0.5 else None
                        events.append(outcome(f"c{request}{ad}", "click", request, user, ad, received=got + 1, value=value))
                        events += [events[-1]] * int(rng.random() < 0.1)
                        if rng.random() < 0.3:
                            events.append(
                                outcome(f"o{request}{ad}", "conversion", request, user, ad, received=got + 2, value=9.0)
                            )
        if number % 10 == 0:
            events.append(outcome(f"lost{number}", "click", "no-such-request", f"u{number}", received=NOON))
    return events


def test_units_are_the_joined_events_added_up(client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(client, traffic(60, seed=1))
    drain(client, tmp_path, batch=100)
    monkeypatch.setattr(keyed, "_ROWS_A_READ", 300)
    monkeypatch.setattr(keyed, "_ROWS_A_PART", 150)
    refresh(tmp_path)
    key = ["user_id", "domain"]
    ours = (
        units(tmp_path)
        .group_by(key)
        .agg(pl.col("requests", "impressions", "clicks", "conversions", "revenue").sum())
        .sort(key)
        .collect()
    )
    theirs = (
        exposures(tmp_path).group_by(key).agg(requests=pl.len())
        .join(
            joined(tmp_path).group_by(key).agg(
                impressions=pl.len(), clicks=pl.col("clicked").sum(),
                conversions=pl.col("conversions").sum(), revenue=pl.col("revenue").sum()
            ),
            on=key, how="left",
        )
        .with_columns(pl.all().exclude(key).fill_null(0)).sort(key).collect()
    )  # fmt: skip
    assert ours.drop("revenue").cast(pl.Int64, strict=False).equals(theirs.drop("revenue").cast(pl.Int64, strict=False))
    assert ours["revenue"].to_list() == pytest.approx(theirs["revenue"].to_list())
    assert ours["clicks"].sum() > 50
    mine, slow = join_counts(tmp_path), join_report(tmp_path)
    assert (mine.exposures, mine.duplicate_exposures, mine.events) == (slow.exposures, slow.duplicate_exposures, slow.events)
    assert (mine.joined_events, mine.late_events, mine.orphan_events) == (
        slow.joined_events,
        slow.late_events,
        slow.orphan_events,
    )
    assert min(mine.late_events, mine.orphan_events, mine.duplicate_events, mine.duplicate_exposures) > 0
    assert mine.events == mine.joined_events + mine.late_events + mine.orphan_events + mine.duplicate_events


def test_units_are_made_once_and_again_for_the_days_that_late_outcomes_may_change(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure("r1"), exposure("r2", time=NOON - 20 * DAY)])
    drain(client, tmp_path)
    assert refresh(tmp_path) == [date(2026, 10, 31), FIRST]
    assert refresh(tmp_path) == []
    log(client, [outcome("e1", "click", "r1", received=NOON + 3 * DAY)])
    drain(client, tmp_path)
    assert refresh(tmp_path) == [FIRST, date(2026, 11, 23)]
    assert units(tmp_path, FIRST, FIRST).collect()["clicks"].to_list() == [1]


def lifts_of(found: ExperimentReport) -> dict[str, Lift]:
    return found.overall.arm("challenger").lifts


def test_a_report_is_the_same_in_parts_and_uses_the_days_before_the_start(
    client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(client, traffic(120, seed=2))
    drain(client, tmp_path)
    plan = Plan(cap=Cap(percentile=80))
    whole = report(tmp_path, ranker(), "ranker-test", plan)
    monkeypatch.setattr(keyed, "_ROWS_A_READ", 200)
    monkeypatch.setattr(keyed, "_ROWS_A_PART", 37)
    parts = report(tmp_path, ranker(), "ranker-test", plan)
    for name, one in lifts_of(whole).items():
        other = lifts_of(parts)[name]
        for left, right in ((one.plain, other.plain), (one.adjusted, other.adjusted), (one.always_valid, other.always_valid)):
            assert isinstance(left, Estimate) and isinstance(right, Estimate)
            assert (left.value, left.low, left.high) == pytest.approx((right.value, right.low, right.high))
    assert (whole.start, whole.days, parts.cap) == (FIRST, 2, pytest.approx(whole.cap))
    gain = lifts_of(whole)["ctr"].gain
    assert isinstance(gain, float) and gain > 0.05
    assert "CUPED takes off of the variance" in to_markdown(whole) and "CUPED" in to_markdown(whole)
    capped, raw = (whole.overall.arms[0].values[name] for name in ("capped_revenue_per_user", "revenue_per_user"))
    assert isinstance(capped, Estimate) and isinstance(raw, Estimate) and capped.value < raw.value
    assert {len(domain.arms[1].lifts) for domain in whole.domains.values()} == {9}
    assert all(
        one.holm_p is not None and one.holm_p >= (one.judged.p_value or 0)
        for one in lifts_of(whole).values()
        if isinstance(one.judged, Estimate)
    )


def test_without_days_before_the_start_cuped_and_a_percentile_say_why(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [one for one in traffic(20, seed=3) if one.model_dump().get("time", 0) >= NOON])
    drain(client, tmp_path)
    found = report(tmp_path, ranker(), "ranker-test", Plan(cap=Cap(percentile=99)))
    gain = lifts_of(found)["ctr"].gain
    assert isinstance(gain, NotComputable) and "no day before the start" in gain.reason
    capped = lifts_of(found)["capped_revenue_per_user"].plain
    assert isinstance(capped, NotComputable) and "there was none" in capped.reason
    assert any("CUPED: (the ledger holds no day before the start)" in line for line in notes(found))
    alone = report(tmp_path, ranker(), "ranker-test", Plan(cap=Cap(value=0.01)))
    value = alone.overall.arms[0].values["capped_revenue_per_user"]
    assert isinstance(value, Estimate) and 0 < value.value <= 0.02


def test_an_arm_that_falls_silent_is_named_with_its_day(client: redis.Redis, tmp_path: Path) -> None:
    rows = [
        exposure(f"r{user}.{day}", f"u{user}", arm="control" if user % 2 else "challenger", time=NOON + day * DAY)
        for user in range(400) for day in range(3) if user % 2 or day < 2
    ]  # fmt: skip
    log(client, rows)
    drain(client, tmp_path)
    found = report(tmp_path, ranker(), "ranker-test")
    assert list(found.split.days) == [date(2026, 11, 22)]
    assert any("first on 2026-11-22: 'control' has 200 users where 100 of 200" in line for line in notes(found))


def test_a_plan_is_declared_once(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("primary: capped_revenue_per_user\ncap: {percentile: 99}\nguardrails: {ctr: 0.02}\n")
    stored = declare(tmp_path, "a/b", load_plan(file), FIRST)
    assert plan_of(tmp_path, "a/b") == stored == declare(tmp_path, "a/b", load_plan(file), date(2026, 12, 1))
    assert stored.declared == FIRST and plan_of(tmp_path, "other") == Plan()
    with pytest.raises(BadInput, match="has had another plan since 2026-11-20"):
        declare(tmp_path, "a/b", Plan(), FIRST)
    for wrong, said in (
        ("primary: clicks", "unknown metric 'clicks'"), ("primary: capped_revenue_per_user", "needs a cap"),
        ("cap: {value: 1, percentile: 5}", "either a value or a percentile"), ("colour: red", "colour"), ("[", "no YAML"),
    ):  # fmt: skip
        file.write_text(wrong)
        with pytest.raises(BadInput, match=said):
            load_plan(file)


def test_a_phase_begins_the_day_after_the_split_changed_and_not_by_more_coverage(client: redis.Redis) -> None:
    store = ExperimentStore(client)
    defined = store.write(ranker(coverage=0.2), who="a", expected_version=0)
    assert phase_start(defined.definitions, "ranker-test", store.history()) is None
    wider = store.write(ramp(defined.definitions, "ranker-test", coverage=0.4), who="a", expected_version=1)
    assert phase_start(wider.definitions, "ranker-test", store.history()) is None
    uneven = store.write(ramp(wider.definitions, "ranker-test", shares=[0.2, 0.6]), who="a", expected_version=2)
    today = datetime.fromtimestamp(store.history()[0].when, UTC).date()
    found = phase_start(uneven.definitions, "ranker-test", store.history())
    assert found is not None and (found - today).days == 1


def test_a_forecast_reads_the_last_whole_days_and_refuses_more_than_there_are(client: redis.Redis, tmp_path: Path) -> None:
    log(client, traffic(80, seed=4))
    drain(client, tmp_path)
    found = {one.metric: one for one in forecast(tmp_path, Plan(least_lift=0.1), days=1)}
    ctr = found["ctr"]
    assert isinstance(ctr.detectable, float) and isinstance(ctr.with_past, float) and isinstance(ctr.power, float)
    assert 0 < ctr.with_past < ctr.detectable
    assert isinstance(ctr.units, int) and (ctr.units > ctr.users) == (ctr.power < 0.8)
    half = {one.metric: one for one in forecast(tmp_path, Plan(), days=1, coverage=0.5, domain="feed")}
    assert half["ctr"].users < ctr.users and isinstance(half["ctr"].power, NotComputable)
    with pytest.raises(BadInput, match="whole days, not 9"):
        forecast(tmp_path, Plan(), days=9)
