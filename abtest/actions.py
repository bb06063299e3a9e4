"""What an operator does to running experiments, as functions from definitions to definitions."""

from __future__ import annotations

from abtest.definitions import Definitions
from contracts.errors import BadInput


def pause(now: Definitions, key: str) -> Definitions:
    """Everybody gets what they would without the experiment."""
    return now.amend(key, active=False)


def resume(now: Definitions, key: str) -> Definitions:
    """The same units meet the same arms again."""
    return now.amend(key, active=True)


def start(now: Definitions, key: str) -> Definitions:
    """A draft takes its units in."""
    status = now.experiment(key).status
    if status != "draft":
        raise BadInput(f"experiment {key!r} is {status}, not a draft", "define a new experiment under a new key")
    return now.amend(key, status="running")


def stop(now: Definitions, key: str, release: str | None = None) -> Definitions:
    """End it. release: the arm that all whom the experiment targets get from now on; without one they get the champion."""
    rule = now.experiment(key)
    if release is None:
        return now.amend(key, status="stopped")
    if release not in rule.arms:
        raise BadInput(f"experiment {key!r} has no arm {release!r}", f"its arms are {', '.join(rule.arms)}")
    return now.amend(key, status="stopped", released=release, active=True)


def kill(now: Definitions, on: bool = True) -> Definitions:
    """The switch over all experiments: on, everybody gets the champion; off, everything is as it was."""
    return now.model_copy(update={"active": not on})
