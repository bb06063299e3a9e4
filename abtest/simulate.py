"""Does the whole do what it says? Experiments on simulated users, read as the report reads real ones.

A user has a taste (how often he comes) and an inclination (how often he clicks) that last through the days and domains and
before the start, so that his impressions are correlated and his past tells of his future. Domains differ in traffic, click
rate and price; the price of a click is log-normal. Every experiment draws its own users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abtest.moments import Moments
from abtest.tally import Tally

Array = NDArray[np.float64]
ARMS = ("control", "treated")
FIRST_DAY_OF_CRASH = 3  # counted from 0


@dataclass(frozen=True)
class World:
    """users: of both arms; days: after the start, and as many before it, which are one sum.
    By domain: visits a user and day, ads a visit,
    click rate, conversion rate of a click, price of a click. lift: planted on the click rate of the treated, a fraction, one
    for all domains or one each; crash: the treated arm's events stop on FIRST_DAY_OF_CRASH."""

    users: int = 3_000
    days: int = 7
    visits: tuple[float, ...] = (0.20, 0.12, 0.08, 0.05)
    ads: int = 3
    click_rate: tuple[float, ...] = (0.05, 0.10, 0.15, 0.08)
    conversion_rate: tuple[float, ...] = (0.20, 0.10, 0.15, 0.30)
    price: tuple[float, ...] = (1.0, 0.6, 1.5, 0.8)
    cap: float = 6.0
    lift: float | tuple[float, ...] = 0.0
    crash: bool = False

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(f"d{number}" for number in range(len(self.visits)))


@dataclass(frozen=True)
class Log:
    """One experiment's users. treated: (users,); requests, impressions, clicks, conversions, revenue: (users, 1 + days, domains),
    entry 0 all the days before the start together. Users without a request after the start were never exposed."""

    world: World
    treated: NDArray[np.bool_]
    counts: tuple[Array, ...]

    def tallies(self, domain: int | None = None, days: Sequence[int] | None = None) -> Iterator[dict[str, Tally]]:
        """After each day since the start (or each of `days`, counted from 0): arm -> tally of all days so far, over all domains
        or in one."""
        by_day = np.stack([one.sum(axis=2) if domain is None else one[:, :, domain] for one in self.counts])
        revenue = by_day[4]
        caps = np.array([self.world.cap * self.world.days] + [self.world.cap] * self.world.days)
        by_day = np.concatenate([by_day, np.minimum(revenue, caps)[None]])  # (6, users, 1 + days)
        before, so_far = by_day[:, :, 0], by_day[:, :, 1:].cumsum(axis=2)
        for day in range(self.world.days) if days is None else days:
            now = so_far[:, :, day]
            columns = np.concatenate([now, now[3:4] > 0, before, before[3:4] > 0])
            exposed = now[0] > 0
            yield {arm: Tally(Moments.of(columns[:, exposed & (self.treated == bool(side))])) for side, arm in enumerate(ARMS)}

    def seen(self) -> NDArray[np.int64]:
        """Users of each arm with a request on each day since the start: (days, 2)"""
        asked = self.counts[0][:, 1:].sum(axis=2) > 0
        return np.stack([asked[~self.treated].sum(axis=0), asked[self.treated].sum(axis=0)], axis=1)


def people(world: World, rng: np.random.Generator) -> tuple[NDArray[np.int64], Array]:
    """What users bring along: requests (users, 1 + days, domains), entry 0 all the days before the start together, and click
    rates (users, domains)."""
    taste = rng.gamma(2.0, 0.5, (world.users, 1, 1))
    inclination = rng.gamma(4.0, 0.25, (world.users, 1))
    expected = np.broadcast_to(taste * np.array(world.visits), (world.users, 1 + world.days, len(world.visits))).copy()
    expected[:, 0] *= world.days
    return rng.poisson(expected), np.minimum(inclination * np.array(world.click_rate), 0.5)


def draw(world: World, rng: np.random.Generator) -> Log:
    """Draw one experiment; users are split by a fair coin."""
    treated = rng.random(world.users) < 0.5
    requests, rate = people(world, rng)
    shape = requests.shape
    if world.crash:
        requests[treated, 1 + FIRST_DAY_OF_CRASH :] = 0
    after = rate * np.where(treated[:, None], 1 + np.array(world.lift), 1.0)
    user, day, domain = asked = np.nonzero(requests)
    ads = requests[asked] * world.ads
    clicks, conversions, revenue = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    clicks[asked] = rng.binomial(ads, np.where(day == 0, rate[user, domain], after[user, domain]))
    clicked = np.nonzero(clicks)
    made = clicks[clicked].astype(np.int64)
    conversions[clicked] = rng.binomial(made, np.array(world.conversion_rate)[clicked[2]])
    revenue[clicked] = made * np.array(world.price)[clicked[2]] * rng.lognormal(-0.32, 0.8, len(made))  # of mean 1
    shown = requests.astype(np.float64)
    return Log(world, treated, (shown, shown * world.ads, clicks, conversions, revenue))


def logs(world: World, numbers: Iterable[int], seed: int) -> Iterator[Log]:
    """Experiment i is the same whatever others are drawn beside it."""
    for number in numbers:
        yield draw(world, np.random.default_rng([seed, number]))


def true_lifts(world: World, metrics: Sequence[str], domain: int | None = None) -> dict[str, float]:
    """By metric, from the law itself: what a click brings does not change, so whatever counts clicks rises as they do."""
    lift = np.broadcast_to(np.asarray(world.lift, dtype=np.float64), len(world.visits))
    share = np.ones(len(world.visits)) if domain is None else np.eye(len(world.visits))[domain]
    clicks = share * np.array(world.visits) * np.array(world.click_rate)
    revenue = clicks * np.array(world.price)
    of_clicks, of_revenue = float((clicks * lift).sum() / clicks.sum()), float((revenue * lift).sum() / revenue.sum())
    known = {"pv": 0.0, "ctr": of_clicks, "rpm": of_revenue, "ecpm": of_revenue, "revenue_per_user": of_revenue}
    if np.ptp(lift[share > 0]) == 0:
        known |= {"ppc": 0.0, "cvr": 0.0}
    return {name: value for name, value in known.items() if name in metrics}
