"""A decision applied, and taken back: an arm becomes what everybody gets.

Where the arm is a recipe and nothing else, and its experiment is over all users, its recipe becomes champion and the experiment
stops. An arm with parameters of its own, or one that was tried on chosen users only, is released: the stopped experiment serves
it to all whom it targets, and to nobody on whom it was not tried. What was there before lies in `home/promotions` until it is
taken back.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from abtest import actions
from abtest.definitions import Rule
from abtest.experiments import ExperimentStore, Snapshot, VersionConflict
from contracts.aliases import CHAMPION, Aliases
from contracts.errors import BadInput
from contracts.files import read_json, write_json


@dataclass(frozen=True)
class Promotion:
    """champion: the recipe that was crowned, None where the arm was released instead; before: the champion until then;
    when: seconds since 1970, UTC."""

    experiment: str
    arm: str
    champion: str | None
    before: str | None
    who: str
    when: float


class Promoter:
    """Definitions in Redis, aliases and the record of promotions under `home`."""

    def __init__(self, store: ExperimentStore, home: Path) -> None:
        self._store, self._aliases, self._records = store, Aliases(home), home / "promotions"

    def promote(
        self, key: str, arm: str, *, who: str, why: str, expected_version: int | None = None
    ) -> tuple[Promotion, Snapshot]:
        """Raises BadInput for an arm that cannot be promoted, VersionConflict when definitions changed meanwhile; then nothing
        has moved. Killed between the two writes, the champion has moved and the experiment still runs: do it again."""
        now = self._at(expected_version)
        rule = now.definitions.experiment(key)
        champion = _crowned(key, rule, arm)
        release = arm if champion is None else None
        done = Promotion(key, arm, champion, self._aliases.champion(), who, time.time())
        if champion is not None:
            self._aliases.crown(champion)
        try:
            after = self._store.change(
                lambda found: actions.stop(found, key, release), who=who, why=why, expected_version=now.version
            )
        except BaseException:
            if champion is not None and done.before is not None:
                self._aliases.crown(done.before)
            raise
        write_json(self._path(key), asdict(done))
        self._note_champion(who, why, done.before, champion)
        return done, after

    def revert(self, key: str, *, who: str, why: str, expected_version: int | None = None) -> tuple[Promotion, Snapshot]:
        """The experiment runs again with the same arms, and the champion is the one before. Raises BadInput where there is no
        promotion, or where somebody has since changed what it left."""
        if not self._path(key).exists():
            raise BadInput(f"experiment {key!r} has no promotion to take back", "see `mdrec ab show`")
        done = Promotion(**read_json(self._path(key)))
        now = self._at(expected_version)
        rule, crowned = now.definitions.experiment(key), self._aliases.champion()
        if rule.status != "stopped" or rule.released != (done.arm if done.champion is None else None):
            raise BadInput(f"experiment {key!r} has been changed since its promotion", "resume or stop it by hand")
        if done.champion is not None and crowned != done.champion:
            raise BadInput(
                f"the champion is {crowned!r} by now, not {done.champion!r}", "move it by hand: `mdrec bundle alias champion`"
            )
        moved = done.champion is not None and done.before is not None
        if moved:
            self._aliases.crown(str(done.before))
        try:
            after = self._store.change(
                lambda found: found.amend(key, status="running", released=None), who=who, why=why, expected_version=now.version
            )
        except BaseException:
            if moved:
                self._aliases.crown(str(done.champion))
            raise
        self._path(key).unlink()
        self._note_champion(who, why, done.champion, done.before if moved else None)
        return done, after

    def _at(self, expected_version: int | None) -> Snapshot:
        now = self._store.read()
        if expected_version is not None and now.version != expected_version:
            raise VersionConflict(
                f"definitions are at version {now.version}, not {expected_version}", "read again, redo the change"
            )
        return now

    def _note_champion(self, who: str, why: str, before: str | None, after: str | None) -> None:
        if after is not None and after != before:
            self._store.note(who=who, why=why, diff={CHAMPION: [before, after]})

    def _path(self, key: str) -> Path:
        return self._records / f"{quote(key, safe='')}.json"


def _crowned(key: str, rule: Rule, arm: str) -> str | None:
    """The recipe that becomes champion; None where the arm is to be released to those it targets."""
    if arm not in rule.arms:
        raise BadInput(f"experiment {key!r} has no arm {arm!r}", f"its arms are {', '.join(rule.arms)}")
    if arm == rule.arms[0]:
        raise BadInput(f"{arm!r} is the control of {key!r}", "stop the experiment: everybody gets the champion")
    if rule.status != "running":
        raise BadInput(f"experiment {key!r} is {rule.status}, not running", "only a running experiment can be promoted")
    value = rule.variations[rule.arms.index(arm)]
    recipe = value.get("recipe") if isinstance(value, dict) else None
    targeted = rule.condition or rule.parentConditions
    return None if recipe is None or value.get("params") or value.get("bundle") or targeted else str(recipe)
