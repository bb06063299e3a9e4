"""A report as data says what the report says, and its series what each day's report would have said."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import redis

from abtest.analyze import ExperimentReport, report
from abtest.drain import drain
from abtest.estimate import Estimate
from abtest.experiments import ExperimentStore
from abtest.report_file import SERIES_DAYS, continues, report_data, series
from abtest.report_models import SeriesPoint, read_report, report_path
from abtest.stats import NotComputable
from contracts.errors import WorkFailed
from contracts.events import Exposure, Feedback
from deploy.experiments_report import current_report
from tests.abtest.test_assign import ranker
from tests.abtest.world import DAY, NOON, exposure, log, outcome

KEY, FIRST = "ranker-test", date(2026, 11, 20)
DEFINITIONS = ranker()


def day(number: int, users: int = 40) -> list[Exposure | Feedback]:
    """One day: users in two arms and two domains, of whom those of the challenger click more often."""
    events: list[Exposure | Feedback] = []
    for user in range(users):
        arm, name, at = ("control", "challenger")[user % 2], f"u{user}", NOON + number * DAY
        request = f"{number}-{user}"
        events.append(exposure(request, name, arm=arm, domain=("feed", "search")[user // 2 % 2], time=at))
        events.append(outcome(f"i{request}", "impression", request, name, received=at + 5))
        if user % 8 < 2 + (arm == "challenger"):
            events.append(outcome(f"c{request}", "click", request, name, received=at + 6))
    return events


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    client = redis.Redis.from_url(redis_url)
    ExperimentStore(client).write(DEFINITIONS, who="ada", expected_version=0)
    return client


def tell(client: redis.Redis, home: Path, number: int) -> None:
    log(client, day(number))
    drain(client, home / "events")


def test_the_file_says_what_the_report_says(client: redis.Redis, home: Path) -> None:
    tell(client, home, 0)
    tell(client, home, 1)
    found = current_report(home, client, KEY)
    stored = read_report(home, KEY)
    assert stored is not None
    assert (stored.start, stored.days, stored.control, stored.plan.primary) == (FIRST, 2, "control", "ecpm")
    assert [one.domain for one in stored.slices] == [None, "feed", "search"]
    for data, part in zip(stored.slices, (found.overall, *found.domains.values()), strict=True):
        assert [(arm.arm, arm.users, arm.clicks) for arm in data.arms] == [(arm.arm, arm.units, arm.clicks) for arm in part.arms]
    ours, theirs = stored.slices[0].arms[1].lifts["ctr"], found.overall.arms[1].lifts["ctr"]
    assert isinstance(theirs.plain, Estimate) and isinstance(theirs.always_valid, Estimate)
    assert (ours.plain.value, ours.plain.low, ours.plain.p_value) == (theirs.plain.value, theirs.plain.low, theirs.plain.p_value)
    assert (ours.always_valid.low, ours.p_value, ours.holm_p) == (theirs.always_valid.low, theirs.p_value, theirs.holm_p)
    assert isinstance(theirs.adjusted, NotComputable) and ours.cuped.value is None and ours.cuped.reason == theirs.adjusted.reason
    assert stored.slices[0].arms[1].guardrails[0].words == found.overall.arms[1].guardrails[0].reason
    assert stored.decision.action == "hold" and stored.decision.reasons and stored.split.p_value == 1.0
    assert stored.slices[1].arms[1].guardrails == []
    assert "NaN" not in report_path(home, KEY).read_text() and json.loads(report_path(home, KEY).read_text())["days"] == 2


def test_each_point_of_the_series_is_the_report_of_the_days_up_to_it(client: redis.Redis, home: Path) -> None:
    for number in (0, 1, 3):  # nobody came on the day between
        tell(client, home, number)
    current_report(home, client, KEY)
    stored = read_report(home, KEY)
    assert stored is not None
    days = [FIRST, FIRST + timedelta(1), FIRST + timedelta(3)]
    assert sorted({one.day for one in stored.series}) == days
    assert {one.metric for one in stored.series if one.domain is not None} == {"ecpm"}
    for until in days:
        then = report(home / "events", DEFINITIONS, KEY, until=until).overall.arms[1].lifts["ctr"].always_valid
        (point,) = [one for one in stored.series if (one.day, one.domain, one.metric) == (until, None, "ctr")]
        assert isinstance(then, Estimate) and (point.value, point.low, point.high) == (then.value, then.low, then.high)


def test_only_new_days_are_asked_for_and_a_day_that_was_not_over_is_made_again(client: redis.Redis, home: Path) -> None:
    asked: list[date] = []

    def until(last: date) -> ExperimentReport:
        asked.append(last)
        return report(home / "events", DEFINITIONS, KEY, until=last)

    for number in range(3):
        tell(client, home, number)
    current_report(home, client, KEY)
    before = read_report(home, KEY)
    assert before is not None
    tell(client, home, 3)
    found = report(home / "events", DEFINITIONS, KEY)
    points = series(found, before, until)
    assert asked == [FIRST + timedelta(2)]
    assert points[: len(before.series) * 2 // 3] == before.series[: len(before.series) * 2 // 3]
    rule = DEFINITIONS.experiment(KEY)
    assert continues(before, found, rule, None)
    assert not continues(before, found, rule, FIRST)  # the shares changed: another phase
    assert not continues(before, found, ranker(meta=[{"key": "a"}, {"key": "b"}]).experiment(KEY), None)


def test_a_series_ends_where_it_says_nothing_any_more(client: redis.Redis, home: Path) -> None:
    tell(client, home, 0)
    found = report(home / "events", DEFINITIONS, KEY)
    many = tuple(FIRST + timedelta(at) for at in range(SERIES_DAYS + 5))
    points = series(ExperimentReport(**{**vars(found), "exposed": many}), None, lambda last: found)
    assert (min(one.day for one in points), max(one.day for one in points)) == (many[5], many[-1])


def test_before_anybody_came_there_is_a_report_without_numbers(client: redis.Redis, home: Path) -> None:
    (home / "events").mkdir()
    current_report(home, client, KEY)
    stored = read_report(home, KEY)
    assert stored is not None and (stored.start, stored.series) == (None, [])
    assert (
        stored.split.reason == "no units"
        and stored.slices[0].arms[0].values["ctr"].reason == "a variance needs two units or more"
    )


def test_a_damaged_file_is_named_and_the_next_report_replaces_it(client: redis.Redis, home: Path) -> None:
    tell(client, home, 0)
    current_report(home, client, KEY)
    path = report_path(home, KEY)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WorkFailed, match="is no report"):
        read_report(home, KEY)
    current_report(home, client, KEY)
    assert read_report(home, KEY) is not None


def test_users_in_an_arm_of_no_weight_are_a_number_that_json_has(client: redis.Redis, home: Path) -> None:
    tell(client, home, 0)
    uneven = ranker(weights=[1.0, 0.0])
    found = report(home / "events", uneven, KEY)
    points: list[SeriesPoint] = []
    data = report_data(found, uneven.experiment(KEY), None, datetime.now(UTC), points)
    assert data.split.broken and data.split.alarm and data.split.chi_square is None and data.split.p_value == 0.0
