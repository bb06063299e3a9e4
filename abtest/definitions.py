"""What an operator writes: features and their rules, in GrowthBook's feature JSON.

    ranker:                                   # a feature: one thing that experiments may change
      rules:
        - key: ranker-dsfm                    # the experiment; the feature's name when absent
          variations: [{recipe: adi+shared_dnn}, {recipe: adi+dsfm, params: {}}]     # the first is the control
          meta: [{key: control}, {key: challenger}]        # the arms' names; "0", "1", ... when absent
          weights: [0.5, 0.5]
          coverage: 0.2

Either a mapping of features, or `{"features": ..., "savedGroups": ..., "contextualBandits": ...}` as GrowthBook sends it.
What is ours: `active: false` on a rule skips it, on a feature leaves its defaultValue to all (no default: the champion),
beside `features` it is the kill switch, which leaves every feature its defaultValue and every request the champion; `true`
brings back the same arms. `released: ARM` with `status: stopped` serves that arm to all whom the rule's condition selects;
they are exposed to nothing. A rule that names `bucketVersion`, `minBucketVersion` or `fallbackAttribute` is sticky: a unit
keeps the arm it has met (units.py). A variation `{interleave: [A, B], params: {}}` is an arm in which the slates of two recipes
are served as one (team_draft.py). An arm may name a `bundle` of its recipe beside the one that the alias serves. `canary` makes
an experiment one (canary.py); `shadows`, beside `features`, are answered in the background (shadow.py); `caps`, there too, say
what one user is not shown again (caps.py).
"""

from __future__ import annotations

import difflib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from abtest.buckets import Range, bucket_ranges
from abtest.canary import Canary
from abtest.caps import Cap
from abtest.shadow import Shadow
from contracts.errors import BadInput

Json = Any

# Parts of GrowthBook's payload that describe or serve a browser and change nothing here.
_CARRIED = frozenset(
    {"name", "description", "phase", "tracks", "type", "project", "tags", "owner", "screenshot"} | {"persistQueryString"}
)
_ASK_TO_STICK = frozenset({"bucketVersion", "minBucketVersion", "fallbackAttribute"})


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="after")
    def _no_unknown_fields(self) -> Self:
        for name in self.model_extra or {}:
            if name not in _CARRIED:
                near = difflib.get_close_matches(name, type(self).model_fields, n=1)
                raise ValueError(f"unknown field {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        return self


class Meta(_Model):
    """key: the arm's name. passthrough: units of this arm go on to the next rule (the open side of a holdout)."""

    key: str | None = None
    passthrough: bool = False


class Filter(_Model):
    seed: str
    ranges: list[Range]
    attribute: str = "id"
    hashVersion: int = 2


class ParentCondition(_Model):
    """The value of another feature, matched as {"value": ...}. gate: a failure ends the whole feature, not the rule."""

    id: str
    condition: dict[str, Json]
    gate: bool = False


class Split(_Model):
    """How units are divided among variations; what an experiment and a rule have in common."""

    key: str | None = None
    variations: list[Json] = []
    meta: list[Meta] = []
    weights: list[float] | None = None
    coverage: float | None = None
    ranges: list[Range] | None = None
    seed: str | None = None
    hashAttribute: str = "id"
    hashVersion: int = 1
    namespace: tuple[str, float, float] | None = None
    filters: list[Filter] = []
    condition: dict[str, Json] = {}
    parentConditions: list[ParentCondition] = []
    active: bool = True
    status: Literal["draft", "running", "stopped"] = "running"
    released: str | None = None
    fallbackAttribute: str | None = None
    bucketVersion: int = 0
    minBucketVersion: int = 0
    disableStickyBucketing: bool = False

    @property
    def sticky(self) -> bool:
        """Does a unit keep its arm when shares or the namespace move under it?"""
        return not self.disableStickyBucketing and not self.model_fields_set.isdisjoint(_ASK_TO_STICK)

    def arm(self, index: int) -> str:
        """Name of a variation."""
        name = self.meta[index].key if index < len(self.meta) else None
        return str(index) if name is None else name

    @property
    def arms(self) -> list[str]:
        return [self.arm(index) for index in range(len(self.variations))]

    def spans(self, weights: list[float] | None = None) -> list[Range]:
        """The part of [0, 1) that each arm owns; `weights` instead of the rule's own."""
        if self.ranges is not None:
            return self.ranges
        coverage = 1.0 if self.coverage is None else self.coverage
        return bucket_ranges(len(self.variations), coverage, self.weights if weights is None else weights)


class Experiment(Split):
    """An experiment outside a feature. force: everybody gets this index."""

    key: str
    force: int | None = None


class Rule(Split):
    """Either `force` (one value for whom the condition, coverage and range select) or `variations` (an experiment).
    contextualVariations with contextualBanditRef: an experiment whose weights depend on the unit's attributes."""

    id: str = ""
    force: Json = None
    range: Range | None = None
    contextualVariations: list[Json] = []
    contextualBanditRef: str | None = None
    canary: Canary | None = None

    @property
    def forces(self) -> bool:
        """A rule may force null, so presence counts."""
        return "force" in self.model_fields_set

    @property
    def is_experiment(self) -> bool:
        return not self.forces and bool(self.variations)


class Feature(_Model):
    defaultValue: Json = None
    rules: list[Rule] = []
    active: bool = True
    id: str | None = None


class BanditLeaf(_Model):
    leafId: int
    condition: dict[str, Json] = {}
    weights: list[float]


class Bandit(_Model):
    banditVersion: int = 0
    contexts: list[BanditLeaf] = []


class Definitions(BaseModel):
    """Everything that assignment reads. Order matters: the first feature that answers with a recipe decides it."""

    model_config = ConfigDict(frozen=True)

    features: dict[str, Feature] = {}
    savedGroups: dict[str, list[Json]] = {}
    contextualBandits: dict[str, Bandit] = {}
    shadows: dict[str, Shadow] = {}
    caps: dict[str, Cap] = {}
    active: bool = True

    def experiments(self) -> dict[str, Rule]:
        """Experiment key -> its rule, whether it is running or not."""
        rules = [(name, rule) for name, feature in self.features.items() for rule in feature.rules]
        return {rule.key or name: rule for name, rule in rules if rule.is_experiment}

    def experiment(self, key: str) -> Rule:
        """Raises BadInput naming the known experiments."""
        known = self.experiments()
        if key not in known:
            raise BadInput(f"unknown experiment {key!r}", f"known: {', '.join(sorted(known)) or 'none yet'}")
        return known[key]

    def amend(self, key: str, **fields: Json) -> Definitions:
        """The same definitions with fields of one experiment changed, e.g. amend("ranker", coverage=0.5)."""
        rule = self.experiment(key)
        try:
            changed = Rule.model_validate({**rule.model_dump(exclude_unset=True), **fields})
        except ValidationError as error:
            raise BadInput(f"experiment {key!r}: {error.errors()[0]['msg']}", f"check {', '.join(fields)}") from None
        features = {
            name: feature.model_copy(update={"rules": [changed if one is rule else one for one in feature.rules]})
            for name, feature in self.features.items()
        }
        return self.model_copy(update={"features": features})

    def body(self) -> bytes:
        """JSON; fields that nobody wrote are left out, so that a rule without `force` stays one. `features` is there whenever
        anything is, for without it the rest would be read as features."""
        whole = self.model_copy(update={"features": self.features} if self.model_fields_set else {})
        return whole.model_dump_json(exclude_unset=True, exclude={"active"} if self.active else None).encode()


def interleaved(value: Json) -> tuple[str, str] | None:
    """The two recipes that a variation interleaves, in their order; None where it does not."""
    pair = value.get("interleave") if isinstance(value, dict) else None
    return (pair[0], pair[1]) if isinstance(pair, list) and len(pair) == 2 else None


def recipe_shown(value: Json) -> str | None:
    """What people read of a variation: its recipe, or its two."""
    pair = interleaved(value)
    if pair is not None:
        return " & ".join(pair)
    return value.get("recipe") if isinstance(value, dict) else None


def parse(body: bytes | str) -> Definitions:
    """JSON -> Definitions. Raises BadInput naming the field."""
    try:
        raw = json.loads(body)
    except ValueError as error:
        raise BadInput(f"experiment definitions are not valid JSON: {error}", "check the file with a JSON linter") from None
    return parse_object(raw)


def parse_object(raw: Json) -> Definitions:
    """Decoded JSON or YAML -> Definitions, with the checks that GrowthBook's own format leaves to its server."""
    if not isinstance(raw, dict):
        raise BadInput(f"experiment definitions are {type(raw).__name__}, not a mapping", "write `feature: {rules: [...]}`")
    known = {name: raw[name] for name in Definitions.model_fields if name in raw}
    try:
        return Definitions.model_validate(known if "features" in raw else {"features": raw})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "definitions"
        reason = first["msg"].removeprefix("Value error, ")
        hint = f"{error.error_count()} problem(s) in all; the format is GrowthBook's feature JSON"
        raise BadInput(f"{where}: {reason}", hint) from None
