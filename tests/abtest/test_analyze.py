"""A report from events to decision, on a ledger whose truth is known."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from rich.console import Console

from abtest.analyze import ArmReport, ExperimentReport, Slice, report
from abtest.assign import Assigner
from abtest.compare import Lift
from abtest.drain import drain
from abtest.estimate import Estimate, Result
from abtest.guardrails import judge
from abtest.ledger import JoinReport
from abtest.plan import Plan
from abtest.promote import decide
from abtest.render import to_markdown, to_tables
from abtest.srm import Diagnosis, SrmCheck
from abtest.stats import NotComputable
from contracts.errors import BadInput
from contracts.events import Exposure, Feedback
from tests.abtest.test_assign import ranker
from tests.abtest.world import exposure, log, outcome

DEFINITIONS = ranker()


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def traffic(users: int, lift: float, seed: int) -> list[Exposure | Feedback]:
    """Each user asks in two domains, sees one ad each time, clicks with .2 (challenger: times 1 + lift), at a bid of 1.5."""
    rng = np.random.default_rng(seed)
    assigner = Assigner(DEFINITIONS)
    events: list[Exposure | Feedback] = []
    for number in range(users):
        user = f"user-{seed}-{number}"
        arm = assigner.assign(user, "feed")[0].arm
        for domain in ("feed", "search"):
            request = f"{domain}-{user}"
            events.append(exposure(request, user, arm=arm, domain=domain))
            events.append(outcome(f"i{request}", "impression", request, user))
            if rng.random() < 0.2 * (1 + lift * (arm == "challenger")):
                events.append(outcome(f"c{request}", "click", request, user))
    return events


def test_a_report_counts_by_hand(client: redis.Redis, tmp_path: Path) -> None:
    log(
        client,
        [
            exposure("r1", "u1", arm="control"),
            outcome("e1", "impression", "r1", "u1"),
            outcome("e2", "click", "r1", "u1"),
            exposure("r2", "u1", arm="control", domain="search"),
            outcome("e3", "impression", "r2", "u1", ad_id="a1"),
            exposure("r3", "u2", arm="control"),  # met its arm, saw nothing
            exposure("r4", "u3", arm="challenger"),
            outcome("e4", "click", "r4", "u3", value=4.0),
            outcome("e5", "conversion", "r4", "u3", value=40.0),
            exposure("r5", "u4", arm="challenger"),
            exposure("r6", "u4", arm="control"),  # crossed
            outcome("e6", "click", "r6", "u4"),
            exposure("r7", "u5", arm="retired"),  # an arm of an older definition
            exposure("r8", "u6"),  # in no experiment
            outcome("e7", "click", "r8", "u6"),
        ],
    )
    drain(client, tmp_path)
    found = report(tmp_path, DEFINITIONS, "ranker-test")
    control, challenger = found.overall.arms
    assert (control.arm, control.recipe, control.units, control.impressions, control.clicks, control.revenue) == (
        "control", "adi+shared_dnn", 2, 2, 1, 1.5,
    )  # fmt: skip
    assert (challenger.units, challenger.impressions, challenger.clicks) == (1, 1, 1)
    assert (challenger.conversions, challenger.revenue) == (1, 4.0)
    assert isinstance(control.values["ctr"], Estimate) and control.values["ctr"].value == 0.5
    assert isinstance(control.values["ecpm"], Estimate) and control.values["ecpm"].value == 1000 * 1.5 / 2
    assert isinstance(challenger.values["ctr"], NotComputable)
    assert isinstance(challenger.lifts["ctr"].plain, NotComputable)
    assert (found.crossed_units, found.unknown_arms) == (1, {"retired": 1})
    assert list(found.domains) == ["feed", "search"]
    assert [arm.impressions for arm in found.domains["search"].arms] == [1, 0]
    assert decide(found).action == "hold"
    with pytest.raises(BadInput, match="known: ranker-test"):
        report(tmp_path, DEFINITIONS, "nothing")


def test_a_planted_lift_is_found_and_promoted_and_its_mirror_rolled_back(client: redis.Redis, tmp_path: Path) -> None:
    log(client, traffic(3_000, lift=0.5, seed=3))
    drain(client, tmp_path)
    found = report(tmp_path, DEFINITIONS, "ranker-test")
    ctr = found.overall.arm("challenger").lifts["ctr"].plain
    assert isinstance(ctr, Estimate) and ctr.low < 0.5 < ctr.high and ctr.low > 0
    assert isinstance(found.overall.srm, SrmCheck) and not found.overall.srm.broken
    assert found.join.joined_events == found.join.events
    decision = decide(found)
    assert (decision.action, decision.arm) == ("promote", "challenger")
    swapped = ranker(meta=[{"key": "challenger"}, {"key": "control"}])
    assert decide(report(tmp_path, swapped, "ranker-test")).action == "roll_back"


def test_srm_is_taken_against_the_definitions_weights(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure(f"r{n}", f"u{n}", arm="control" if n % 10 < 6 else "challenger") for n in range(1_000)])
    drain(client, tmp_path)
    even, uneven = report(tmp_path, DEFINITIONS, "ranker-test"), report(tmp_path, ranker(weights=[0.6, 0.4]), "ranker-test")
    assert isinstance(even.overall.srm, SrmCheck) and even.overall.srm.broken
    assert isinstance(uneven.overall.srm, SrmCheck) and not uneven.overall.srm.broken
    assert "sample ratio mismatch" in decide(even).reasons[0]
    assert "SAMPLE RATIO MISMATCH" in to_markdown(even)


def lift_of(low: float, high: float, p_value: float = 0.001) -> Lift:
    one: Result = Estimate((low + high) / 2, low, high, p_value, 1e-4)
    return Lift(one, NotComputable("no past"), NotComputable("no past"), one, one, holm_p=p_value)


def arm_of(name: str, units: int, **lifts: tuple[float, float]) -> ArmReport:
    none = NotComputable("not asked")
    flat = dict.fromkeys(Plan().metrics, Lift(none, none, none, none, none))
    found = flat | {metric: lift_of(*bounds) for metric, bounds in lifts.items()}
    guard = (judge("ctr", 0.01, found["ctr"].judged, "up"),)
    return ArmReport(name, None, units, 0, units, 0, 0, 0.0, dict.fromkeys(flat, none), found, guard)


def report_of(
    *challengers: ArmReport, crossed: int = 0, domains: dict[str, ArmReport] | None = None, plan: Plan | None = None,
    words: tuple[str, ...] = (),
) -> ExperimentReport:  # fmt: skip
    control, fine = arm_of("control", 5_000), SrmCheck(0.1, 0.7)
    parts = {name: Slice([control, arm], fine) for name, arm in (domains or {}).items()}
    return ExperimentReport(
        experiment="x", control="control", plan=plan or Plan(), overall=Slice([control, *challengers], fine), domains=parts,
        crossed_units=crossed, unknown_arms={}, join=JoinReport(0, 0, 0, 0, 0, 0, 0), split=Diagnosis({}, {}, list(words)),
        start=None, days=3, days_left={arm.arm: NotComputable("not asked") for arm in challengers}, cap=None,
    )  # fmt: skip


BETTER = arm_of("b", 5_000, ecpm=(0.01, 0.1), ctr=(-0.005, 0.05))
CHANCE = replace(BETTER, lifts=BETTER.lifts | {"ecpm": lift_of(0.01, 0.1, p_value=0.08)})


@pytest.mark.parametrize(
    ("found", "action", "reason"),
    [
        (report_of(BETTER), "promote", "ecpm of 'b' rose: +5.50%"),
        (report_of(replace(BETTER, units=10)), "hold", "10 users of the 1000 needed"),
        (report_of(arm_of("b", 5_000, ecpm=(-0.01, 0.1))), "hold", "did not surely rise"),
        (report_of(arm_of("b", 5_000)), "hold", "not computable, not asked"),
        (report_of(BETTER, crossed=500), "hold", "500 of 10500 users were seen in two arms"),
        (report_of(BETTER, words=("in feed: 'b' has 3 users",)), "hold", "mismatch in feed: 'b' has 3 users"),
        (report_of(BETTER, domains={"feed": arm_of("b", 900, ecpm=(-0.2, -0.1))}), "hold", "fell in feed"),
        (report_of(CHANCE), "hold", "as one of several challengers may by chance"),
        (report_of(arm_of("b", 5_000, ecpm=(-0.1, -0.01))), "roll_back", "ecpm of 'b' fell"),
        (report_of(arm_of("b", 5_000, ecpm=(0.01, 0.1), ctr=(-0.1, -0.02))), "roll_back", "ctr is worse by more than the margin"),
        (report_of(arm_of("b", 5_000, ecpm=(0.01, 0.1), ctr=(-0.1, -0.005))), "hold", "ctr may be worse by more than the margin"),
        (report_of(arm_of("b", 5_000, ecpm=(0.01, 0.1))), "hold", "ctr: not computable, not asked"),
        (report_of(), "hold", "no challenger"),
    ],
)
def test_decisions(found: ExperimentReport, action: str, reason: str) -> None:
    decision = decide(found)
    assert decision.action == action
    assert reason in " ".join(decision.reasons)


def test_a_fall_in_one_of_many_domains_that_chance_explains_does_not_hold_a_promotion() -> None:
    unlucky = arm_of("b", 900, ecpm=(-0.2, -0.1))
    unlucky = replace(unlucky, lifts=unlucky.lifts | {"ecpm": lift_of(-0.2, -0.1, p_value=0.3)})
    assert decide(report_of(BETTER, domains={"feed": unlucky})).action == "promote"


def test_the_plan_names_the_metric_and_the_best_arm_wins() -> None:
    other = arm_of("c", 5_000, ecpm=(0.02, 0.03), ctr=(0.3, 0.4))
    assert decide(report_of(BETTER, other)).arm == "c"
    assert decide(report_of(BETTER, plan=Plan(primary="ctr", guardrails={}))).action == "hold"


def test_reports_render_with_reasons_and_hostile_domain_names(client: redis.Redis, tmp_path: Path) -> None:
    log(client, [exposure("r1", "u1", arm="control", domain="[red]a|b"), outcome("e1", "impression", "r1", "u1")])
    drain(client, tmp_path)
    found = report(tmp_path, DEFINITIONS, "ranker-test")
    markdown = to_markdown(found)
    assert "## [red]a\\|b" in markdown
    assert "a variance needs two units or more" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    screen = io.StringIO()
    Console(file=screen, width=80).print(*to_tables(found))
    assert "[red]a|b" in screen.getvalue() and "challenger" in screen.getvalue()
