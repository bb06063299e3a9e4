"""Since when has an experiment been split as it is now?

Users seen before the shares changed are not split by the present weights, and an arm that got more traffic later met other
days than its rival: a report reads from the first whole day of the present phase. More coverage at equal weights changes
nothing of that and starts no phase.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from abtest.definitions import Definitions
from abtest.experiments import Change

_SPLIT = ("weights", "ranges", "seed", "hashVersion", "hashAttribute", "variations", "meta")


def phase_start(definitions: Definitions, experiment: str, changes: Iterable[Change]) -> date | None:
    """changes: latest first. The day after the last change of the split (UTC); None where it never changed since it was
    defined, or since before the changes given. Raises BadInput for an experiment that is not defined."""
    rule = definitions.experiment(experiment)
    places = [
        f"features.{name}.rules.{index}."
        for name, feature in definitions.features.items()
        for index, one in enumerate(feature.rules)
        if one is rule
    ]
    for change in changes:
        mine = {path: pair for path, pair in change.diff.items() if path.startswith(tuple(places))}
        if mine and all(before is None for before, _ in mine.values()) and any(".variations" in path for path in mine):
            return None  # defined then
        if any(path.startswith(tuple(place + field for place in places for field in _SPLIT)) for path in mine):
            return datetime.fromtimestamp(change.when, UTC).date() + timedelta(days=1)
    return None
