"""Go on, roll back, or propose: a pure function of what a canary and its stable side did, so that the watcher, an operator and a
test see the same reasons.

Technical guardrails are looked at every few seconds, over the last minutes (a fault that has just begun) and since the start
(one too small for minutes). Each is a difference of two shares of answers, of which the canary's must surely be larger by
more than the margin: by an interval that holds at every look (sequential.py), around Agresti and Caffo's estimate (2000, The
American Statistician 54), which has a spread also where every answer failed. Latency: the share of answers beyond (1 +
slower) times the stable side's p99, which is at most 1% of the stable side's. Drift: the population stability index over
tenths of the stable side's scores, beyond what chance gives two samples of these sizes (Yurdakul 2018, Western Michigan
University: chi-square over the sizes).

Business guardrails come from the ledger, by intervals that hold at every look (guardrails.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy import special

from abtest.canary import Canary, widened
from abtest.estimate import Estimate, difference
from abtest.guardrails import Guardrail
from abtest.histogram import MILLISECONDS, PROBABILITIES, Histogram, above
from abtest.sequential import sequential
from abtest.stats import Proportion

Json = Any

CONFIDENCE = 0.999
"""Of each guardrail in each window: with six of them, looked at in hundreds of windows, 95% would roll back sound canaries."""
PLANNED_ANSWERS = 1_000
LEAST_ANSWERS = 50
LEAST_FOR_TAILS = 300
"""Of each side, before shares are judged; before the p99 and drift are."""

_WORDS = {
    "failed": "requests that failed",
    "degraded": "answers from a lower rung",
    "empty": "empty answers",
    "unseen": "answers for unseen ids",
}


@dataclass
class Side:
    """What one arm did, which adds up over workers and minutes. answers: all requests, the failed ones included;
    latency, scores: histograms by bins of MILLISECONDS and PROBABILITIES, of the answers that have one."""

    answers: int = 0
    failed: int = 0
    degraded: int = 0
    empty: int = 0
    unseen: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: Side) -> Side:
        return Side(**{name: mine + getattr(other, name) for name, mine in vars(self).items()})

    def milliseconds(self, share: float) -> float | None:
        return MILLISECONDS.quantile(self.latency, share)

    def median_score(self) -> float | None:
        return PROBABILITIES.quantile(self.scores, 0.5)

    def fields(self, arm: str) -> Iterator[tuple[str, int]]:
        """As fields of a Redis hash."""
        for name, value in vars(self).items():
            counts = {name: value} if isinstance(value, int) else {f"{name} {number}": n for number, n in value.items()}
            yield from ((f"{arm} {one}", n) for one, n in counts.items() if n)

    @classmethod
    def of(cls, fields: Mapping[str, int], arm: str) -> Side:
        """The inverse; fields of other arms are skipped."""
        side = cls()
        for name, value in fields.items():
            owner, _, rest = name.partition(" ")
            if owner != arm:
                continue
            what, _, number = rest.partition(" ")
            if number:
                getattr(side, what)[int(number)] += value
            else:
                setattr(side, what, value)
        return side


@dataclass(frozen=True)
class Window:
    """name: "in the last 5 minutes", for the reasons."""

    name: str
    stable: Side
    canary: Side


@dataclass(frozen=True)
class Verdict:
    """share: the one proposed, None for the whole domain. numbers: by guardrail that was breached."""

    action: Literal["go on", "roll back", "propose"]
    reasons: list[str]
    share: float | None = None
    numbers: dict[str, Json] = field(default_factory=dict)


def verdict(
    canary: Canary, share: float, windows: Sequence[Window], seconds: float, users: int, business: Sequence[Guardrail] = ()
) -> Verdict:
    """share: of the domain's users who get the canary now, for `seconds`; users: of the canary side so far. Anything surely
    worse than its margin in any window: roll back, with all that is. Survived: propose the next share. Else go on, and why."""
    breaches = [breach for window in windows for breach in _breaches(canary, window)]
    reasons = [reason for _, reason, _ in breaches] + [one.reason for one in business if one.verdict == "breached"]
    if reasons:
        numbers = {name: found for name, _, found in reversed(breaches)}  # of two windows the first one's
        return Verdict("roll back", reasons, None, numbers)
    left = []
    if seconds < canary.hours * 3600:
        left.append(f"{seconds / 3600:.1f} of {canary.hours:g} hours at this share")
    if users < canary.users:
        left.append(f"{users} of {canary.users} users")
    if left:
        return Verdict("go on", left)
    step = widened(share)
    survived = f"survived {seconds / 3600:.1f} hours and {users} users at {share:.1%}: no technical guardrail breached"
    words = [one.reason for one in business] or ["the ledger has not been read: nothing is known of clicks and revenue"]
    target = "the whole domain (stop it with its arm `canary` released)" if step is None else f"{step:.0%} of the users"
    return Verdict("propose", [survived, *words, f"proposes {target}"], step)


def _breaches(canary: Canary, window: Window) -> Iterator[tuple[str, str, Json]]:
    """(guardrail, reason, numbers)."""
    stable, treated, margins = window.stable, window.canary, canary.technical
    for name, words in _WORDS.items():
        margin = getattr(margins, name)
        if margin is None or min(stable.answers, treated.answers) < LEAST_ANSWERS:
            continue
        found = _worse(getattr(treated, name), treated.answers, getattr(stable, name), stable.answers, margin, words, window)
        if found is not None:
            yield name, *found
    if margins.slower is not None and min(stable.latency.total(), treated.latency.total()) >= LEAST_FOR_TAILS:
        yield from _slower(margins.slower, stable.latency, treated.latency, window)
    if margins.drift is not None and min(stable.scores.total(), treated.scores.total()) >= LEAST_FOR_TAILS:
        yield from _drifted(margins.drift, stable.scores, treated.scores, window)


def _worse(
    bad: int, answers: int, stable_bad: int, stable_answers: int, margin: float, words: str, window: Window
) -> tuple[str, Json] | None:
    """Is the canary's share surely larger by more than the margin? Add one of each kind to either side (Agresti & Caffo)."""
    fixed = difference(Proportion(answers + 2, bad + 1), Proportion(stable_answers + 2, stable_bad + 1))
    found = sequential(fixed, answers + stable_answers, PLANNED_ANSWERS, CONFIDENCE)
    if not isinstance(found, Estimate) or found.low <= margin:
        return None
    reason = (
        f"{words} {window.name}: {bad / answers:.2%} of {answers:,} against {stable_bad / stable_answers:.2%} of "
        f"{stable_answers:,}, surely more than {margin:.2%} above ({CONFIDENCE:.1%} at every look: "
        f"{found.low:+.2%} to {min(found.high, 1.0):+.2%})"
    )
    numbers = {
        "canary": bad, "canary_answers": answers, "stable": stable_bad, "stable_answers": stable_answers,
        "margin": margin, "low": round(found.low, 6), "high": round(found.high, 6),
    }  # fmt: skip
    return reason, numbers


def _slower(margin: float, stable: Counter[int], treated: Counter[int], window: Window) -> Iterator[tuple[str, str, Json]]:
    p99 = MILLISECONDS.quantile(stable, 0.99)
    assert p99 is not None
    bound = MILLISECONDS.bin(p99 * (1 + margin))
    late, stable_late = above(treated, bound), above(stable, bound)
    words = f"answers beyond {MILLISECONDS.bound(bound):.1f} ms, {1 + margin:g} times the stable side's p99"
    found = _worse(late, treated.total(), stable_late, stable.total(), 0.01, words, window)
    if found is not None:
        reason, numbers = found
        mine = MILLISECONDS.quantile(treated, 0.99)
        yield "slower", reason, {**numbers, "p99_ms": round(mine or 0.0, 2), "stable_p99_ms": round(p99, 2)}


def _drifted(limit: float, stable: Counter[int], treated: Counter[int], window: Window) -> Iterator[tuple[str, str, Json]]:
    found, parts = stability_index(stable, treated)
    chance = float(special.chdtri(parts - 1, 1 - CONFIDENCE)) * (1 / stable.total() + 1 / treated.total())
    if found > limit + chance:
        medians = [PROBABILITIES.quantile(one, 0.5) or 0.0 for one in (treated, stable)]
        reason = (
            f"scores have drifted {window.name}: stability index {found:.2f} of {treated.total():,} answers against "
            f"{stable.total():,}, more than {limit:.2f} (and {chance:.2f} for chance); median p_click {medians[0]:.3g} "
            f"against {medians[1]:.3g}"
        )
        yield "drift", reason, {"index": round(found, 4), "limit": limit, "chance": round(chance, 4), "medians": medians}


def stability_index(stable: Histogram, treated: Histogram) -> tuple[float, int]:
    """(sum of (p - q) log(p / q), number of parts): parts of a tenth of the stable side or more, what lies below and above all
    of it apart. Half a count more in each, so that no part is empty."""
    edges = _parts(stable)
    p, q = ([sum(n for number, n in counts.items() if low < number <= high) + 0.5 for low, high in edges]
            for counts in (treated, stable))  # fmt: skip
    left, right = sum(p), sum(q)
    terms = ((one / left, other / right) for one, other in zip(p, q, strict=True))
    return sum((one - other) * math.log(one / other) for one, other in terms), len(edges)


def _parts(stable: Histogram) -> list[tuple[int, int]]:
    """Runs (low, high] of bins."""
    occupied = sorted(number for number, count in stable.items() if count)
    total, inside = sum(stable.values()), 0
    edges = [(-1, occupied[0] - 1)]
    for number in occupied:
        inside += stable[number]
        if inside >= total / 10 or number == occupied[-1]:
            edges.append((edges[-1][1], number))
            inside = 0
    return [*edges, (occupied[-1], PROBABILITIES.bins)]
