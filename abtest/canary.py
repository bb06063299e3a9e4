"""A canary: a share of one domain's users gets a new bundle, or another recipe, beside as many who stay with what is stable.

It is an experiment (definitions.py) of a fixed form, so that assignment, ramps, exposures, reports, audit and the kill switch are
those of experiments; `canary` on its rule says what it may be worse by, and for how long it must survive:

    feed-next:
      rules:
        - key: feed-next
          condition: {domain: feed}
          variations: [{params: {}}, {recipe: adi+dsfm, bundle: kuairand.adi+dsfm.20220504.1a2b3c4d}]
          meta: [{key: stable}, {key: canary}]
          coverage: 0.1                          # 5% get the canary, 5% are what it is compared with
          hashVersion: 2
          canary: {hours: 24, users: 1000}

The stable side is of the canary's size and drawn like it, since it differs from the canary in nothing else: all other users are
another crowd and had warm caches (the three-way comparison of Kayenta, https://netflixtechblog.com, "Automated Canary Analysis at
Netflix with Kayenta", 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import BadInput

if TYPE_CHECKING:
    from abtest.definitions import Definitions, Rule

Json = Any
STABLE, CANARY = "stable", "canary"
MAX_SHARE = 0.5
STEPS = (0.01, 0.05, 0.1, 0.25, MAX_SHARE)
"""Shares that a surviving canary proposes one after the other; beyond the last, the whole domain."""

_FORM = frozenset(
    {"key", "variations", "meta", "coverage", "hashVersion", "condition", "canary", "status", "active", "released", "description"}
)
Margin = Annotated[float, Field(gt=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Technical(_Model):
    """What the canary may be worse by than the stable side; null: not watched. failed, degraded, empty, unseen: share of answers,
    absolute. unseen: the bundle has no row of the user, or does not know a value of the user or the context. slower: share by
    which its p99 may be higher. drift: population stability index of an answer's mean p_click."""

    failed: Margin | None = 0.005
    degraded: Margin | None = 0.02
    empty: Margin | None = 0.01
    unseen: Margin | None = 0.1
    slower: Annotated[float, Field(gt=0, le=10)] | None = 0.5
    drift: Annotated[float, Field(gt=0, le=10)] | None = 0.25


class Outcome(_Model):
    """What the watcher made of it. share: of the domain's users, the one proposed; numbers: those the reasons speak of."""

    action: Literal["rolled back", "proposes"]
    share: float | None = None
    reasons: list[str]
    numbers: dict[str, Json] = {}


class Canary(_Model):
    """hours, users: what it must survive at each share before it proposes a larger one; users: of the canary side.
    business: metric of the ledger -> worsening that is tolerated, a fraction of the stable side."""

    hours: Annotated[float, Field(gt=0, le=24 * 90)] = 24.0
    users: Annotated[int, Field(ge=1)] = 1_000
    technical: Technical = Technical()
    business: dict[Literal["ctr", "rpm", "ecpm", "cvr", "revenue_per_user"], Margin] = {"ctr": 0.05, "revenue_per_user": 0.1}
    outcome: Outcome | None = None


def rule_of(key: str, domain: str, recipe: str, bundle: str | None, share: float, canary: Canary) -> Rule:
    """Raises BadInput for a share that leaves no room for the stable side."""
    from abtest.definitions import Rule  # which reads Canary

    if not 0 < share <= MAX_SHARE:
        raise BadInput(f"canary {key!r}: share {share} is outside (0, {MAX_SHARE}]", "the stable side needs as many users")
    arm = {"recipe": recipe} if bundle is None else {"recipe": recipe, "bundle": bundle}
    return Rule.model_validate(
        {
            "key": key,
            "condition": {"domain": domain},
            "variations": [{"params": {}}, arm],
            "meta": [{"key": STABLE}, {"key": CANARY}],
            "coverage": 2 * share,
            "hashVersion": 2,
            "canary": canary.model_dump(exclude_unset=True),
        }
    )


def canaries(definitions: Definitions) -> dict[str, Rule]:
    """Key -> rule, whether it is running or not. One of another form, written to Redis past the checks, is an experiment only."""
    return {key: rule for key, rule in definitions.experiments().items() if rule.canary is not None and _well_formed(rule)}


def _well_formed(rule: Rule) -> bool:
    try:
        check_canary("", rule)
    except BadInput:
        return False
    return True


def running(definitions: Definitions) -> dict[str, Rule]:
    """Those that take users now."""
    if not definitions.active:
        return {}
    active = {rule.key or name for name, one in definitions.features.items() if one.active for rule in one.rules if rule.active}
    return {key: rule for key, rule in canaries(definitions).items() if key in active and rule.status == "running"}


def domain_of(rule: Rule) -> str:
    return str(rule.condition["domain"])


def share_of(rule: Rule) -> float:
    """Of the domain's users, those who get the canary."""
    start, end = rule.spans()[1]
    return round(end - start, 9)


def widened(share: float) -> float | None:
    """The next step; None: the whole domain."""
    return next((step for step in STEPS if step > share + 1e-9), None)


def check_canary(where: str, rule: Rule) -> None:
    """A canary of another form than `rule_of` gives it would be watched wrongly. Raises BadInput naming the field."""
    other = sorted(rule.model_fields_set - _FORM)
    if other:
        raise BadInput(f"{where}.{other[0]}: a canary has none", f"a canary names {', '.join(sorted(_FORM))} only")
    if rule.arms != [STABLE, CANARY]:
        raise BadInput(f"{where}.meta: a canary's arms are {[STABLE, CANARY]}, not {rule.arms}", "the stable side comes first")
    if rule.variations[0] != {"params": {}}:
        raise BadInput(f"{where}.variations.0: {rule.variations[0]} is not the stable side", 'write {"params": {}}')
    arm = rule.variations[1]
    if not isinstance(arm, dict) or not arm.get("recipe"):
        raise BadInput(f"{where}.variations.1: {arm} names no recipe", 'write {"recipe": ..., "bundle": ...}')
    if set(rule.condition) != {"domain"} or not isinstance(rule.condition["domain"], str):
        raise BadInput(f"{where}.condition: {rule.condition} does not name one domain", 'write {"domain": ...}')
    if rule.coverage is None or not 0 < rule.coverage <= 2 * MAX_SHARE:
        raise BadInput(f"{where}.coverage: {rule.coverage} is outside (0, 1]", "it is twice the canary's share")
    if rule.hashVersion != 2:
        raise BadInput(f"{where}.hashVersion: {rule.hashVersion} is not 2", "version 1 is biased between experiments at once")


def check_canary_change(key: str, before: Rule, after: Rule) -> None:
    """What ran under a key stays what it was: a canary that ended does not begin again. Raises BadInput."""
    if before.canary is None:
        return
    named = "begin another canary under a new key"
    ended = before.canary.outcome is not None and before.canary.outcome.action == "rolled back"
    if ended and (after.status != "stopped" or after.released == CANARY):
        raise BadInput(f"canary {key!r} was rolled back and does not begin again", named)
    if after.canary is None or (after.variations, after.condition) != (before.variations, before.condition):
        raise BadInput(f"canary {key!r} cannot become something else: another domain, recipe or bundle", named)


def bundles_named(definitions: Definitions) -> set[str]:
    """Bundles that arms name beside the aliases, and that must be in service (and on disk) while they may answer."""
    found: set[str] = set()
    for feature in definitions.features.values():
        values = [feature.defaultValue]
        for rule in feature.rules:
            if rule.status != "stopped":
                values += [rule.force, *rule.variations]
            elif rule.released in rule.arms:
                values.append(rule.variations[rule.arms.index(rule.released)])
        found |= {str(value["bundle"]) for value in values if isinstance(value, Mapping) and value.get("bundle")}
    return found
