"""A gateway with something to see on its console: two recipes, experiments in every state, a report, nights, a little traffic."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from abtest.experiments import ExperimentStore, parse_object
from abtest.report_models import (
    ArmData,
    ArmShare,
    DaysLeft,
    DecisionData,
    EventCounts,
    GuardrailData,
    Interval,
    LiftData,
    MetricData,
    PlanData,
    ReportData,
    SeriesPoint,
    SliceData,
    SplitData,
    SplitDiagnosis,
    write_report,
)
from contracts.manifest import Gate
from contracts.nights import NightExperiment, NightRecipe, NightRecord, NightStep
from server.settings import Settings
from tests.server.live import Running, running
from tests.server.worlds import DOMAINS, World

ADA, BOB = "ada-token", "bob-token"
HOSTILE = "<img src=x onerror=alert(1)>&\"'/../%2e"
OTHER = "adi+dnn"
METRICS = {"pv": "ads seen, a user", "ctr": "clicks, an ad seen", "ecpm": "revenue of a thousand ads seen"}
LIFTS = {None: 0.062, "feed": 0.09, "search": 0.071, "video": 0.012, "mail": -0.02}


def rule(key: str, **fields: Any) -> dict[str, Any]:
    arms = [{"recipe": "adi+dsfm"}, {"recipe": OTHER}]
    return {
        "key": key, "variations": arms, "meta": [{"key": "control"}, {"key": "challenger"}],
        "weights": [0.5, 0.5], "coverage": 0.4, "hashVersion": 2, **fields,
    }  # fmt: skip


def definitions() -> dict[str, Any]:
    """One experiment in each state; keys and arms may be any text."""
    arms = {"meta": [{"key": "control"}, {"key": HOSTILE}]}
    return {
        "ranker": {"rules": [rule("ranker-test")]},
        "depth": {"rules": [rule("depth", status="draft", coverage=0.2)]},
        "night-mode": {"rules": [rule("night-mode", active=False, condition={"domain": "feed"})]},
        "old": {"rules": [rule("old", status="stopped")]},
        "hostile": {"rules": [rule(HOSTILE, **arms, coverage=0.1)]},
    }


@contextmanager
def console_gateway(home: Path, redis_url: str) -> Iterator[Running]:
    for bundle_id in ("b0", "b1"):  # the second took over from the first
        World(bundle_id=bundle_id, bid_step=0.05, ads=40, inactive=(3,)).build(home)
    World(bundle_id="b2", recipe=OTHER, bias=1.0, ads=40).build(home)
    with redis.Redis.from_url(redis_url) as store:
        ExperimentStore(store).write(parse_object(definitions()), who="ada", why="first experiments", expected_version=0)
    write_report(home, example_report("ranker-test"))
    for one in nights():
        one.save(home)
    settings = Settings(home=home, redis_url=redis_url, redis_timeout_ms=2000, operator_tokens=SecretStr(f"ada:{ADA},bob:{BOB}"))
    with running(settings) as served:
        yield served


def ask_around(served: Running, times: int = 40) -> None:
    for number in range(times):
        served.recommend(f"u{number % 8}", DOMAINS[number % 4], k=5)


def example_report(key: str, broken: bool = False, breached: bool = False) -> ReportData:
    """Seven days of a challenger with a lift in two of four domains. broken: one arm lost a third of its users; breached: the
    click rate fell by more than its margin."""
    today = datetime.now(UTC)
    start = today.date() - timedelta(days=7)
    slices = [_slice(domain, broken, breached) for domain in (None, *DOMAINS)]
    action, reasons = ("promote", ["ecpm of 'challenger' rose: +6.20% [+2.48%, +9.92%]"])
    words = ["in feed: 'challenger' has 4,020 users where 5,010 of 10,020 are expected"] if broken else []
    if broken:
        action, reasons = "hold", ["sample ratio mismatch: control 6000, challenger 4020, p = 1e-87"]
    if breached:
        action, reasons = "roll_back", ["'challenger': ctr is worse by more than the margin of 1.0%: -8.00% [-12.00%, -4.00%]"]
    arm = None if broken else "challenger"
    return ReportData(
        experiment=key,
        made_at=today - timedelta(hours=5),
        start=start,
        since=None,
        days=7,
        control="control",
        arms=[ArmShare(arm="control", recipe="adi+dsfm", share=0.2), ArmShare(arm="challenger", recipe=OTHER, share=0.2)],
        plan=PlanData(
            primary="ecpm",
            guardrails={"ctr": 0.01},
            least_lift=0.02,
            planned_units=10_000,
            confidence=0.95,
            power=0.8,
            sequential=True,
            min_units=1000,
            declared=start,
        ),
        metrics=[MetricData(name=name, meaning=text, kind="ratio", better="up") for name, text in METRICS.items()],
        decision=DecisionData(action=action, arm=arm, reasons=reasons, words=f"{action} {arm or ''}: {reasons[0]}"),
        notes=["95% intervals, users as units", "CUPED takes 31% off the variance of ecpm"],
        split=SplitDiagnosis(
            broken=broken, p_value=1e-87 if broken else 0.41, chi_square=None, reason=None, alarm=broken, words=words
        ),
        slices=slices,
        days_left=[DaysLeft(arm="challenger", days=0.0, reason=None)],
        crossed_users=3,
        unknown_arms={},
        events=EventCounts(answers=70_400, repeated_answers=0, events=91_200, joined=91_021, duplicate=112, orphan=40, late=27),
        cap=12.5,
        cap_reason=None,
        series=_series(start),
    )


def _slice(domain: str | None, broken: bool, breached: bool) -> SliceData:
    users = 6000 if domain is None else 2600
    treated = round(users * (0.67 if broken else 1.003))
    split = SplitData(broken=broken, p_value=1e-87 if broken else 0.41, chi_square=None if broken else 0.68, reason=None)
    ctr = -0.08 if breached else 0.03
    lifts = {
        "pv": _lift(0.004, 0.006),
        "ctr": _lift(ctr, 0.012),
        "ecpm": _lift(LIFTS[domain], 0.012 if domain is None else 0.018),
    }
    verdict = "breached" if breached else "passes"
    text = f"ctr is {'' if breached else 'not '}worse by more than the margin of 1.0%"
    guardrails = [GuardrailData(metric="ctr", margin=0.01, verdict=verdict, p_value=0.001, words=text)]
    return SliceData(
        domain=domain,
        split=split,
        arms=[
            _arm("control", "adi+dsfm", users, 1.0, {}, []),
            _arm("challenger", OTHER, treated, 1 + LIFTS[domain], lifts, guardrails if domain is None else []),
        ],
    )


def _arm(arm: str, recipe: str, users: int, scale: float, lifts: dict[str, LiftData], guardrails: list[GuardrailData]) -> ArmData:
    values = {"pv": _value(23.4), "ctr": _value(0.0331), "ecpm": _value(61.2 * scale)}
    return ArmData(
        arm=arm,
        recipe=recipe,
        users=users,
        requests=users * 6,
        impressions=users * 23,
        clicks=round(users * 0.77),
        conversions=users // 40,
        revenue=users * 1.43 * scale,
        values=values,
        lifts=lifts,
        guardrails=guardrails,
    )


def _value(value: float) -> Interval:
    return Interval(value=value, low=value * 0.97, high=value * 1.03)


def _lift(value: float, error: float) -> LiftData:
    plain, cuped, always = (
        Interval(value=value, low=value - w * error, high=value + w * error, p_value=0.01) for w in (2.3, 1.96, 3.1)
    )
    return LiftData(
        plain=plain,
        cuped=cuped,
        cuped_gain=0.31,
        cuped_reason=None,
        cuped_used=True,
        always_valid=always,
        judged=always,
        p_value=math.erfc(abs(value) / error / 2),
        holm_p=min(1.0, 3 * math.erfc(abs(value) / error / 2)),
    )


def _series(start: date) -> list[SeriesPoint]:
    draw = random.Random(7)
    points = []
    for number in range(7):
        for domain in (None, *DOMAINS):
            for metric in METRICS if domain is None else ("ecpm",):
                error = (0.012 if domain is None else 0.018) * math.sqrt(7 / (number + 1)) * 3.1
                value = (LIFTS[domain] if metric == "ecpm" else 0.01) + draw.gauss(0, error / 6)
                points.append(
                    SeriesPoint(
                        day=start + timedelta(days=number),
                        domain=domain,
                        arm="challenger",
                        metric=metric,
                        users=1700 * (number + 1),
                        value=value,
                        low=value - error,
                        high=value + error,
                        reason=None,
                    )
                )
    return points


def example_drift() -> dict[str, Any]:
    """What /admin/v1/drift says hours after a bundle's first: one domain as it was, one that is another by now."""
    edges = [0.0003 * 1.6**step for step in range(17)]
    reference = [math.exp(-(((at - 9) / 3) ** 2)) for at in range(18)]

    def part(weights: list[float], answers: int, mean: float) -> dict[str, Any]:
        return {
            "since": datetime.now(UTC).isoformat(), "answers": answers, "ads": 10 * answers, "mean_p_click": mean,
            "shares": [one / sum(weights) for one in weights],
        }  # fmt: skip

    def slice_of(domain: str, shift: int, verdict: str, psi: float, words: str) -> dict[str, Any]:
        recent = [math.exp(-(((at - 9 - shift) / 3) ** 2)) for at in range(18)]
        return {
            "domain": domain, "recipe": "adi+dsfm", "bundle_id": "b1", "verdict": verdict, "words": words, "psi": psi,
            "unseen_share": 0.11, "unseen_share_reference": 0.09,
            "reference": part(reference, 4000, 0.031), "recent": part(recent, 900, 0.031 * 1.6**shift),
        }  # fmt: skip

    slices = [
        slice_of("feed", 0, "stable", 0.02, "p_click as in the bundle's first hour (PSI 0.02)"),
        slice_of("mail", 3, "drifted", 0.61, "p_click is another than in the bundle's first hour (PSI 0.61)"),
    ]
    return {"hours": 2, "bin_edges": edges, "thresholds": {"moved": 0.1, "drifted": 0.25}, "slices": slices}


def nights() -> list[NightRecord]:
    now = datetime.now(UTC)
    seconds = {
        "tables": 12.1,
        "train-adi": 96.4,
        "train-dsfm": 311.0,
        "evaluate": 20.8,
        "export": 9.4,
        "index": 14.2,
        "publish": 3.3,
    }
    passed = [
        Gate(name="auc lead", domain=name, value=0.11 + at / 100, threshold=0.04, passed=True) for at, name in enumerate(DOMAINS)
    ]
    failed = Gate(name="auc lead", domain="mail", value=0.01, threshold=0.05, passed=False)
    found = []
    for age in range(3):
        started = now - timedelta(days=age, hours=6)
        held = age == 1
        recipes = [
            NightRecipe(recipe="adi+dsfm", bundle_id="b1", published=True, gates=passed),
            NightRecipe(
                recipe=OTHER,
                bundle_id=None if held else "b2",
                published=not held,
                gates=[*passed[:3], failed] if held else passed,
                why="1 gate failed: auc lead in mail: 0.01 against 0.05" if held else None,
            ),
        ]  # fmt: skip
        found.append(
            NightRecord(
                night=f"{started:%Y%m%dT%H%M%S.%f}Z",
                status="held back" if held else "done",
                started=started,
                ended=started + timedelta(seconds=512),
                updated=started + timedelta(seconds=512),
                seconds=512.3,
                recipes=recipes,
                steps=[NightStep(name=name, seconds=took, reused=name == "tables" and held) for name, took in seconds.items()],
                experiments=[NightExperiment(experiment="ranker-test", words="promote challenger: ecpm of 'challenger' rose")],
            )
        )
    return found
