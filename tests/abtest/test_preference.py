"""Who drew the clicks of an interleaving, from events to words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from rich.console import Console
from scipy import stats

from abtest.definitions import Definitions, parse_object
from abtest.drain import drain
from abtest.estimate import Estimate, against_zero, sign_test
from abtest.plan import Plan
from abtest.preference import Preference, PreferenceReport, compare, preferences
from abtest.render_preference import notes, to_markdown, to_table, verdict
from abtest.sequential import sequential
from abtest.stats import Mean, NotComputable
from contracts.errors import BadInput
from contracts.events import Exposure, Interleaved
from tests.abtest.world import DAY, NOON, exposure, log, outcome

RECIPES = ("adi+dsfm", "adi+shared_dnn")


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def mix() -> Definitions:
    rule = {"key": "ranker-test", "variations": [{"recipe": RECIPES[0]}, {"interleave": [*RECIPES]}]}
    return parse_object({"ranker": {"rules": [{**rule, "meta": [{"key": "control"}, {"key": "mixed"}]}]}})


def merged(
    request: str, user: str, teams: list[int], recipes: tuple[str, str] = RECIPES, weights: Sequence[float] = (), **fields: Any
) -> Exposure:
    """Three ads; the last one counts for nobody. weights: none, as in answers from before there were any."""
    told = Interleaved(
        experiment="ranker-test", arm="mixed", recipes=recipes, bundle_ids=("b1", "b2"), teams=teams, counts=[True, True, False],
        weights=list(weights),
    )  # fmt: skip
    return exposure(request, user, arm="mixed", interleaved=told, **fields)


def test_clicks_are_joined_to_the_team_that_picked_the_ad(client: redis.Redis, tmp_path: Path) -> None:
    log(
        client,
        [
            merged("r1", "u1", [0, 1, 0]),
            outcome("e1", "impression", "r1", "u1", "a0"),
            outcome("e2", "click", "r1", "u1", "a1", value=2.0),
            outcome("e3", "click", "r1", "u1", "a2"),  # a place that counts for nobody
            merged("r2", "u1", [0, 1, 0], domain="search"),
            outcome("e4", "click", "r2", "u1", "a0"),
            outcome("e4", "click", "r2", "u1", "a0"),  # an event told twice
            merged("r3", "u2", [1, 0, 1]),
            merged("r3", "u2", [0, 1, 0], time=NOON + 9),  # a retry: what its first answer was counts
            outcome("e5", "click", "r3", "u2", "a0"),
            outcome("e6", "click", "r3", "u2", "a0", time=NOON + 7),  # a second click on the same ad
            outcome("e7", "click", "r3", "u2", "a1", received=NOON + 8 * DAY),  # late
            outcome("e8", "click", "r3", "u1", "a1"),  # of another user's request
            outcome("e9", "click", "r3", "u2", "a9"),  # of an ad that was not shown
            merged("r4", "u3", [0, 1, 0]),
            exposure("r5", "u4", arm="mixed", degraded=["interleave"]),
            outcome("e10", "click", "r5", "u4", "a0"),
            merged("r6", "u5", [0, 1, 0], recipes=("adi+dsfm", "adi+older")),
            outcome("e11", "click", "r6", "u5", "a0"),
            exposure("r7", "u6", arm="control"),
            outcome("e12", "click", "r7", "u6", "a0"),
        ],
    )
    drain(client, tmp_path / "events", batch=4)
    (found,) = preferences(tmp_path / "events", mix(), "ranker-test")
    assert (found.arm, found.recipes, found.alone, found.others) == ("mixed", RECIPES, 1, 1)
    assert found.start == found.until is not None
    whole, feed, search = found.overall, found.domains["feed"], found.domains["search"]
    assert (whole.users, whole.requests, whole.clicks, whole.revenue) == (3, 4, (1, 2), (1.5, 3.5))
    assert (whole.prefer, whole.credited) == ((0, 1, 1), 2)  # u1 is even over both domains
    assert (feed.users, feed.requests, feed.clicks, feed.prefer) == (3, 3, (0, 2), (0, 2, 0))
    assert (search.clicks, search.prefer, search.revenue) == ((1, 0), (1, 0, 0), (1.5, 0.0))
    assert isinstance(search.margin, NotComputable) and "two units" in search.margin.reason
    assert isinstance(feed.mean, NotComputable) and "no variation" in feed.mean.reason
    text = to_markdown(found)
    assert "1 answers of the arm came from one recipe alone" in text and "1 answers were by other recipes" in text
    assert "| search | 1 | 1 | 1 : 0 | (a variance needs two units or more) |" in text
    with pytest.raises(BadInput, match="unknown experiment"):
        preferences(tmp_path / "events", mix(), "other")
    nothing = preferences(tmp_path / "no-events", mix(), "ranker-test")[0]
    assert nothing.overall.users == 0 and verdict(nothing) == "No preference can be computed: a variance needs two units or more."
    assert isinstance(nothing.overall.sign_p, NotComputable) and nothing.start is None


def test_clicks_weigh_what_their_round_did_and_1_where_the_log_is_older_than_weights(client: redis.Redis, tmp_path: Path) -> None:
    for number in range(4):
        teams, weights = [number % 2, 1 - number % 2, 0], (0.5 + number, 0.5 + number, 0.0)
        log(client, [merged(f"new{number}", f"u{number}", teams, weights=weights)])
        log(client, [outcome(f"e{number}", "click", f"new{number}", f"u{number}", "a0")])
    drain(client, tmp_path / "events")
    (new,) = preferences(tmp_path / "events", mix(), "ranker-test")
    assert isinstance(new.overall.margin, Estimate)
    assert new.overall.margin.value == pytest.approx((1.5 + 3.5 - 0.5 - 2.5) / 8.0)
    assert (new.overall.clicks, new.overall.prefer, new.overall.revenue) == ((2, 2), (2, 2, 0), (3.0, 3.0))
    log(client, [merged("old", "u0", [0, 1, 0]), outcome("e5", "click", "old", "u0", "a1")])
    log(client, [merged("torn", "u9", [0, 1, 0], weights=[1.0]), outcome("e9", "click", "torn", "u9", "a1")])  # of one ad only
    assert drain(client, tmp_path / "events").rejected == 1
    for path in (tmp_path / "events").glob("day=*/interleaved-*.parquet"):
        rows = pl.read_parquet(path)
        if "old" in rows["request_id"]:  # as it was written then
            kept = [pl.element().struct.field(name) for name in ("ad_id", "position", "team", "counts")]
            rows.with_columns(pl.col("ads").list.eval(pl.struct(kept))).write_parquet(path)
            assert "weight" not in str(pl.read_parquet_schema(path))
    (both,) = preferences(tmp_path / "events", mix(), "ranker-test")
    assert isinstance(both.overall.margin, Estimate)
    assert both.overall.margin.value == pytest.approx((1.0 + 1.5 + 3.5 - 0.5 - 2.5) / 9.0)
    assert (both.overall.clicks, both.overall.prefer) == ((2, 3), (1, 3, 0))  # u0: half a point for the first, one for the second


def clicks_of(rng: np.random.Generator, users: int, second: float) -> pl.DataFrame:
    """Users with up to six clicks that count in two domains, each on the second's pick with this chance; all of weight 2."""
    total = rng.integers(0, 4, 2 * users)
    ours = rng.binomial(total, second)
    frame = {"user_id": [f"u{at // 2}" for at in range(2 * users)], "domain": ["feed", "search"] * users}
    counts = {"clicks_0": total - ours, "clicks_1": ours, "revenue_0": 2.0 * (total - ours), "revenue_1": 3.0 * ours}
    weighed = {"credit_0": 2.0 * (total - ours), "credit_1": 2.0 * ours}
    frame |= counts | weighed
    return pl.DataFrame(frame).with_columns(pl.col("^(clicks|revenue)_.$").cast(pl.Float64), requests=pl.lit(1))


def test_statistics_are_those_of_scipy_over_users() -> None:
    rows, plan = clicks_of(np.random.default_rng(1), 200, 0.6), Plan(planned_units=200)
    found = compare(rows, plan)
    users = rows.group_by("user_id", maintain_order=True).agg(pl.col("clicks_0", "clicks_1").sum())
    first, second = users["clicks_0"].to_numpy(), users["clicks_1"].to_numpy()
    some = first + second > 0
    values = (second - first)[some] / (first + second)[some]
    theirs = stats.ttest_1samp(values, 0.0)
    low, high = theirs.confidence_interval(0.95)
    assert isinstance(found.mean, Estimate)
    assert (found.mean.value, found.mean.low, found.mean.high) == pytest.approx((values.mean(), low, high))
    assert found.mean.p_value == pytest.approx(theirs.pvalue)
    down, up, even = found.prefer
    assert (up, down, even) == ((values > 0).sum(), (values < 0).sum(), (values == 0).sum())
    assert found.sign_p == pytest.approx(stats.binomtest(up, up + down).pvalue)
    assert isinstance(found.share, Estimate) and found.share.value == pytest.approx(up / (up + down))
    assert found.always_valid == sequential(found.margin, found.credited, 200)
    ratio = (second - first).sum() / (first + second).sum()
    residual = ((second - first) - ratio * (first + second))[some]
    error = np.sqrt(residual.var(ddof=1) / some.sum()) / (first + second)[some].mean()
    assert isinstance(found.margin, Estimate) and found.margin.value == pytest.approx(ratio)
    assert np.sqrt(found.margin.variance or 0) == pytest.approx(error, rel=1e-6)
    assert isinstance(found.revenue_margin, Estimate) and found.revenue_margin.value > ratio


@pytest.mark.parametrize(("up", "down"), [(0, 1), (5, 5), (1, 9), (80, 120), (3000, 2800)])
def test_the_sign_test_is_the_binomial_one(up: int, down: int) -> None:
    assert sign_test(up, down) == pytest.approx(stats.binomtest(up, up + down).pvalue, abs=1e-9)
    assert sign_test(up, down) == sign_test(down, up)


def test_what_has_no_number_says_why() -> None:
    assert against_zero(Mean.of([0.5])) == NotComputable("a variance needs two units or more")
    assert against_zero(Mean.of([1.0] * 9)) == NotComputable("no variation between units, so no error can be estimated")
    few = compare(clicks_of(np.random.default_rng(4), 20, 0.5), Plan())
    assert isinstance(few.margin, Estimate)
    assert isinstance(few.always_valid, NotComputable) and "needs 30 users with credit, there are" in few.always_valid.reason
    alike = compare(clicks_of(np.random.default_rng(2), 40, 1.0), Plan())
    assert isinstance(alike.margin, NotComputable) and isinstance(alike.always_valid, NotComputable)
    assert isinstance(alike.sign_p, float) and alike.sign_p < 1e-6  # all prefer the second: the sign test can tell


def reported(one: Preference, plan: Plan) -> PreferenceReport:
    return PreferenceReport("ranker-test", "mixed", RECIPES, plan, one, {"feed": one}, 0, 0, None, None)


def test_the_verdict_follows_the_interval_that_the_plan_judges_by() -> None:
    rng = np.random.default_rng(3)
    sure, slight = clicks_of(rng, 400, 0.75), clicks_of(rng, 60, 0.62)
    plan, once = Plan(planned_units=400), Plan(planned_units=400, sequential=False)
    assert verdict(reported(compare(sure, plan), plan)).startswith("Users prefer adi+shared_dnn: +0.")
    first = sure.rename({"credit_0": "credit_1", "credit_1": "credit_0"})
    assert verdict(reported(compare(first, plan), plan)).startswith("Users prefer adi+dsfm: -0.")
    doubtful = compare(slight, plan)
    assert isinstance(doubtful.margin, Estimate) and doubtful.margin.low > 0
    assert verdict(reported(doubtful, plan)).startswith("No sure preference between adi+dsfm and adi+shared_dnn")
    assert verdict(reported(doubtful, once)).startswith("Users prefer adi+shared_dnn")
    screen = Console(file=io.StringIO(), width=120)
    screen.print(to_table(reported(doubtful, plan)))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "all domains" in shown and "sign test" in shown and len(notes(reported(doubtful, plan))) == 2
