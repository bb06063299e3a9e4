"""The watcher of canaries: reads what workers counted, and carries out what `verdict` says of it.

One worker holds the lease at a time; that two do for a moment does no harm, since a rollback is written against the version
of the definitions that was read, and only for a canary that still runs. A rollback stops the experiment, which is in one
domain by its condition: everybody there gets what is stable, on all workers at once. Who and why stand in the audit as
`canary`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from abtest.canary import CANARY, STABLE, Outcome, domain_of, running, share_of
from abtest.definitions import Definitions, Rule
from abtest.experiments import ExperimentStore
from abtest.guardrails import Guardrail
from abtest.verdict import Side, Verdict, Window, verdict
from contracts.keys import CANARY_WATCHER, canary_counts, canary_facts, canary_users

Json = Any

WHO = "canary"
RECENT_MINUTES = 5
KEEP_SECONDS = 30 * 86_400
"""How long facts and counts since the start are kept after the last of them; those of a minute are kept for an hour."""

# KEYS[1] the lease; ARGV who, milliseconds. 1 for the holder, old or new.
_LEASE = """
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Standing:
    """How one canary stands. seconds: at its present share."""

    key: str
    domain: str
    share: float
    seconds: float
    users: int
    windows: list[Window]
    business: list[Guardrail]
    verdict: Verdict


class Watcher:
    """The client must not decode responses."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.time) -> None:
        self._redis, self._clock = client, clock
        self._store = ExperimentStore(client)

    def holds_lease(self, who: str, seconds: float) -> bool:
        """Take or keep the right to watch, for so long."""
        return bool(self._redis.eval(_LEASE, 1, CANARY_WATCHER, who, int(seconds * 1000)))

    def look(self) -> list[Standing]:
        """Judge every running canary and carry it out. Raises a redis failure."""
        found = []
        for key, rule in running(self._store.read().definitions).items():
            standing = self.standing(key, rule)
            found.append(standing)
            self._carry_out(standing)
        return found

    def standing(self, key: str, rule: Rule) -> Standing:
        assert rule.canary is not None
        share, now = share_of(rule), self._clock()
        since = self._since(key, share, now)
        windows = [Window(name, *self._sides(key, minutes)) for name, minutes in _windows(now)]
        users = int(self._redis.pfcount(canary_users(key)))
        business = self._business(key)
        found = verdict(rule.canary, share, windows, now - since, users, business)
        return Standing(key, domain_of(rule), share, now - since, users, windows, business, found)

    def note_business(self, key: str, guardrails: list[Guardrail]) -> None:
        """What the ledger says now; the next look acts on it."""
        self._redis.hset(canary_facts(key), "ledger", json.dumps([asdict(one) for one in guardrails]))
        self._redis.expire(canary_facts(key), KEEP_SECONDS)

    def _business(self, key: str) -> list[Guardrail]:
        stored = cast(bytes | None, self._redis.hget(canary_facts(key), "ledger"))
        return [Guardrail(**one) for one in json.loads(stored)] if stored else []

    def _since(self, key: str, share: float, now: float) -> float:
        """When this share was first seen."""
        facts, name = canary_facts(key), f"since {share:g}"
        self._redis.hsetnx(facts, name, repr(now))
        self._redis.expire(facts, KEEP_SECONDS)
        return float(cast(bytes, self._redis.hget(facts, name)))

    def _sides(self, key: str, minutes: list[int | None]) -> tuple[Side, Side]:
        stable, canary = Side(), Side()
        for minute in minutes:
            fields = _counts(cast(Mapping[bytes, bytes], self._redis.hgetall(canary_counts(key, minute))))
            stable, canary = stable + Side.of(fields, STABLE), canary + Side.of(fields, CANARY)
        return stable, canary

    def _carry_out(self, standing: Standing) -> None:
        found = standing.verdict
        if found.action == "go on":
            return

        def amend(now: Definitions) -> Definitions:
            rule = running(now).get(standing.key)
            if rule is None or rule.canary is None:
                raise _Gone
            if found.action == "roll back":
                outcome = Outcome(action="rolled back", reasons=found.reasons, numbers=found.numbers)
                return now.amend(standing.key, status="stopped", canary=_with(rule, outcome))
            stands = rule.canary.outcome
            if share_of(rule) != standing.share or (stands is not None and stands.share == found.share):
                raise _Gone  # proposed before, or widened since
            outcome = Outcome(action="proposes", share=found.share, reasons=found.reasons)
            return now.amend(standing.key, canary=_with(rule, outcome))

        what = f"rolled back in {standing.domain}" if found.action == "roll back" else f"proposes widening in {standing.domain}"
        try:
            self._store.change(amend, who=WHO, why=f"{what}: {'; '.join(found.reasons)}")
        except _Gone:
            return


class _Gone(Exception):
    """Nothing is left to do: the canary does not run any more, or has been told so."""


def _with(rule: Rule, outcome: Outcome) -> Json:
    assert rule.canary is not None
    body = rule.canary.model_dump(exclude_unset=True)
    return {**body, "outcome": outcome.model_dump(exclude_unset=True)}


def _windows(now: float) -> Iterator[tuple[str, list[int | None]]]:
    minute = int(now // 60)
    yield f"in the last {RECENT_MINUTES} minutes", [minute - back for back in range(RECENT_MINUTES)]
    yield "since it began", [None]


def _counts(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in fields.items()}
