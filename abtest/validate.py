"""How often the statistics are wrong, counted over many simulated experiments, beside how often they say that they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from abtest.compare import Lift, compare
from abtest.estimate import Estimate, Result
from abtest.multiplicity import holm
from abtest.plan import Cap, Plan
from abtest.power import Baseline, power_of
from abtest.simulate import ARMS, World, draw, logs, true_lifts
from abtest.srm import SrmCheck, diagnose, srm
from abtest.stats import NotComputable

METHODS = ("fixed", "CUPED", "always valid")
_EVEN = dict.fromkeys(ARMS, 0.5)
_START = date(2026, 1, 1)


@dataclass
class Rates:
    """Counts over experiments. By (slice, metric, method): found, of a lift called different from 0 at the last day;
    covered, of the true lift inside the interval, where the law has one; asked, of those computable. ever_found: by (metric,
    method), at any day, over all domains. gain: of CUPED, thousandths summed, by metric.
    family: experiments with any lift found after Holm.
    srm, srm_ever: alarms at the last day, at any; named: of the alarms by day, those whose first day is the crash's."""

    experiments: int = 0
    asked: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    covered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    known: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    ever_found: Counter[tuple[str, str]] = field(default_factory=Counter)
    gain: Counter[str] = field(default_factory=Counter)
    family: int = 0
    srm: int = 0
    srm_ever: int = 0
    first_days: Counter[int | None] = field(default_factory=Counter)

    def __add__(self, other: Rates) -> Rates:
        return Rates(**{name: mine + getattr(other, name) for name, mine in vars(self).items()})

    def rate(self, counts: Counter[tuple[str, str, str]], key: tuple[str, str, str]) -> float:
        over = self.known if counts is self.covered else self.asked
        return counts[key] / over[key] if over[key] else math.nan


def validate(world: World, numbers: Iterable[int], seed: int) -> Rates:
    """Read each experiment after every day over all domains, and after the last day in each domain."""
    plan = Plan(planned_units=world.users, cap=Cap(value=world.cap), guardrails={}, sequential=False)
    truths = {ALL_DOMAINS: true_lifts(world, plan.metrics)} | {
        name: true_lifts(world, plan.metrics, number) for number, name in enumerate(world.domains)
    }
    if not np.any(world.lift):
        truths = {name: dict.fromkeys(plan.metrics, 0.0) for name in truths}
    rates = Rates()
    for log in logs(world, numbers, seed):
        rates.experiments += 1
        ever: set[tuple[str, str]] = set()
        p_values: dict[tuple[str, str], float] = {}
        alarms = []
        for tallies in log.tallies():
            units = {arm: one.units for arm, one in tallies.items()}
            check = srm(units, _EVEN)
            alarms.append(isinstance(check, SrmCheck) and check.broken)
            lifts = {name: compare(tallies["treated"], tallies["control"], name, plan) for name in plan.metrics}
            ever |= {(name, method) for name, lift in lifts.items() for method, one in _ways(lift) if _significant(one)}
        rates.ever_found.update(ever)
        _note(rates, ALL_DOMAINS, lifts, truths[ALL_DOMAINS], p_values)
        for name, lift in lifts.items():
            rates.gain[name] += round(1000 * lift.gain) if isinstance(lift.gain, float) else 0
        for number, domain in enumerate(world.domains):
            (last,) = log.tallies(number, [world.days - 1])
            there = {name: compare(last["treated"], last["control"], name, plan) for name in plan.metrics}
            _note(rates, domain, there, truths[domain], p_values)
        rates.family += min(holm(p_values).values()) < 1 - plan.confidence
        rates.srm += alarms[-1]
        rates.srm_ever += any(alarms)
        by_day = {
            _START + timedelta(days=day): dict(zip(ARMS, map(int, pair), strict=True)) for day, pair in enumerate(log.seen())
        }
        days = diagnose({}, by_day, _EVEN).days
        rates.first_days[(min(days) - _START).days if days else None] += 1
    return rates


ALL_DOMAINS = "all domains"


def predicted_power(world: World, seed: int) -> dict[str, float]:
    """By metric that the law gives a lift, over all domains: from twenty times as many users without any lift,
    as if they were the days before."""
    plan = Plan(cap=Cap(value=world.cap), guardrails={})
    big = draw(World(**{**vars(world), "users": 20 * world.users, "lift": 0.0, "crash": False}), np.random.default_rng(seed))
    (last,) = big.tallies(days=[world.days - 1])
    exposed = (last["control"].units + last["treated"].units) / 20
    found = {}
    for name, lift in true_lifts(world, plan.metrics).items():
        baseline = Baseline.of(last["control"].statistic(name).moment(), last["control"].units)
        if lift and not isinstance(baseline, NotComputable):
            found[name] = power_of(lift, baseline.error(exposed / 2, exposed / 2, lift))
    return found


def _note(
    rates: Rates, part: str, lifts: dict[str, Lift], truth: dict[str, float], p_values: dict[tuple[str, str], float]
) -> None:
    for name, lift in lifts.items():
        for method, one in _ways(lift):
            if not isinstance(one, Estimate):
                continue
            key = (part, name, method)
            rates.asked[key] += 1
            rates.found[key] += _significant(one)
            if name in truth:
                rates.known[key] += 1
                rates.covered[key] += one.low <= truth[name] <= one.high
        if lift.p_value is not None:
            p_values[part, name] = lift.p_value


def _ways(lift: Lift) -> Iterator[tuple[str, Result]]:
    yield from zip(METHODS, (lift.plain, lift.adjusted, lift.always_valid), strict=True)


def _significant(one: Result) -> bool:
    return isinstance(one, Estimate) and (one.low > 0 or one.high < 0)
