"""The simulator's users before two rankers: the same question asked by interleaving and by a split of the users.

At each request a ranker sees every candidate's appeal through a noise of its own and shows the ads that look best. A user
clicks an ad with (his rate in the domain) x (the ad's appeal to him now) x (the attention that its place gets), whoever put
it there. The better ranker is the one that sees better; nothing else tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from abtest.simulate import Array, Log, World, people
from abtest.team_draft import DEEP, Pick, draft

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Rankers:
    """sight: by ranker, the correlation of its scores with the logarithm of appeal; kinship: that of the two rankers' noises.
    candidates: of a request; spread: standard deviation of the logarithm of appeal; fade: the place p, from 0, gets attention
    1 / (1 + fade p). reverse: the second one shows the first's slate backwards, whatever it sees."""

    sight: tuple[float, float] = (0.5, 0.6)
    kinship: float = 0.9
    candidates: int = 20
    spread: float = 0.5
    fade: float = 0.2
    reverse: bool = False


@dataclass(frozen=True)
class Visits:
    """Requests of some users, one a row. user, day (0: before the start), domain: (n,); rankings: (2, n, at most DEEP ads)
    candidates, best first, by ranker; chance: (n, candidates) of a click at full attention."""

    world: World
    rankers: Rankers
    user: Rows
    day: Rows
    domain: Rows
    rankings: Rows
    chance: Array

    @property
    def slates(self) -> Rows:
        """(2, n, ads): what each ranker would show."""
        return self.rankings[:, :, : self.world.ads]

    @property
    def attention(self) -> Array:
        return 1 / (1 + self.rankers.fade * np.arange(self.world.ads))

    def after(self) -> Visits:
        """Those since the start."""
        now = self.day > 0
        user, day, domain = self.user[now], self.day[now], self.domain[now]
        return replace(self, user=user, day=day, domain=domain, rankings=self.rankings[:, now], chance=self.chance[now])

    def expected(self, ranker: int) -> float:
        """Clicks after the start, had all of it been this ranker's."""
        now = self.after()
        return float(now.chances(now.slates[ranker]).sum())

    def chances(self, slates: Rows) -> Array:
        """slates: (n, ads) of candidates; of a click on each, where it stands."""
        found: Array = np.take_along_axis(self.chance, slates, axis=1) * self.attention
        return found


def visit(world: World, rankers: Rankers, rng: np.random.Generator, before: bool = False) -> Visits:
    """before: also the requests before the start."""
    requests, rate = people(world, rng)
    if not before:
        requests[:, 0] = 0
    at = np.nonzero(requests)
    user, day, domain = (np.repeat(one, requests[at]) for one in at)
    shape = (len(user), rankers.candidates)
    appeal, common = rng.standard_normal(shape), rng.standard_normal(shape)
    depth = DEEP * world.ads
    rankings = np.stack([_ranked(appeal, common, sight, rankers.kinship, depth, rng) for sight in rankers.sight])
    if rankers.reverse:
        rankings[1] = rankings[0]
        rankings[1, :, : world.ads] = rankings[0, :, : world.ads][:, ::-1]
    chance = rate[user, domain, None] * np.exp(rankers.spread * appeal - rankers.spread**2 / 2)
    return Visits(world, rankers, user, day, domain, rankings, np.minimum(chance, 0.95))


def _ranked(appeal: Array, common: Array, sight: float, kinship: float, depth: int, rng: np.random.Generator) -> Rows:
    noise = np.sqrt(kinship) * common + np.sqrt(1 - kinship) * rng.standard_normal(appeal.shape)
    scores = sight * appeal + np.sqrt(1 - sight**2) * noise
    found: Rows = np.argsort(-scores, axis=1)[:, :depth]
    return found


@dataclass(frozen=True)
class Merged:
    """slates: (n, ads) of candidates as they were shown; credit: (2, n, ads), what a click there is worth to each team."""

    visits: Visits
    slates: Rows
    credit: Array

    def by_day(self, clicks: Array) -> Array:
        """clicks: (n, ads), realised or expected; their credit by team, user and day since the start: (2, users, days)."""
        world, at = self.visits.world, (self.visits.user, self.visits.day)
        found = np.zeros((2, world.users, 1 + world.days))
        for team in (0, 1):
            np.add.at(found[team], at, (clicks * self.credit[team]).sum(axis=1))
        return found[:, :, 1:]


def merge(visits: Visits, rng: np.random.Generator) -> Merged:
    """By the code that serves."""
    n, ads = len(visits.user), visits.world.ads
    tosses = rng.integers(0, 1 << ads, n).tolist()
    drafts: list[list[Pick[int]]] = [
        draft(both, ads, toss) for both, toss in zip(zip(*visits.rankings.tolist(), strict=True), tosses, strict=True)
    ]
    parts = np.array([[(pick.ad_id, pick.team, pick.weight) for pick in picks] for picks in drafts]).reshape(n, ads, 3)
    slates, team, weight = parts[..., 0].astype(np.int64), parts[..., 1], parts[..., 2]
    return Merged(visits, slates, np.stack([weight * (team == side) for side in (0, 1)]))


def clicked(chances: Array, rng: np.random.Generator) -> Array:
    """1 for each ad that was clicked, else 0."""
    return (rng.random(chances.shape) < chances).astype(np.float64)


def split(visits: Visits, rng: np.random.Generator) -> Log:
    """The same users split by a fair coin: the control sees the first ranker's slates, the treated the second's; before the start
    all of them the first's."""
    world = visits.world
    treated = rng.random(world.users) < 0.5
    second = treated[visits.user] & (visits.day > 0)
    slates = np.where(second[:, None], visits.slates[1], visits.slates[0])
    shown, clicks = np.zeros((2, world.users, 1 + world.days, len(world.visits)))
    place = (visits.user, visits.day, visits.domain)
    np.add.at(shown, place, 1)
    np.add.at(clicks, place, clicked(visits.chances(slates), rng).sum(axis=1))
    none = np.zeros_like(shown)
    return Log(world, treated, (shown, shown * world.ads, clicks, none, none))
