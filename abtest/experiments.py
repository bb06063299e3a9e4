"""Definitions in files and in Redis, with every change on record.

`exp:definitions` is one hash {version, body, change}, written by one script on one key, so that it works on a cluster and
two operators cannot overwrite each other; the script announces the version to all gateways. The record of a change lies in the
same hash until it is in the `exp:audit` stream, whose entry id is the version: a writer that dies in between loses nothing,
the next one files it, and twice is once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import redis
import yaml

from abtest.check import check, check_change, check_recipes
from abtest.definitions import Definitions, parse, parse_object
from contracts.errors import BadInput, WorkFailed
from contracts.keys import EXPERIMENTS, EXPERIMENTS_AUDIT, EXPERIMENTS_CHANGED

__all__ = [
    "EXPERIMENTS", "Change", "Definitions", "ExperimentStore", "Snapshot", "VersionConflict",
    "load_file", "parse", "parse_object", "snapshot",
]  # fmt: skip

Json = Any
Amend = Callable[[Definitions], Definitions]

# KEYS[1] the hash; ARGV expected version, new version, body, change, channel. Returns the version found when it is another one.
_WRITE = """
local found = redis.call('HGET', KEYS[1], 'version') or '0'
if found ~= ARGV[1] then return found end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'body', ARGV[3], 'change', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[2])
return false
"""


_NOTE_ATTEMPTS = 10


class VersionConflict(WorkFailed):
    """Somebody else wrote first (HTTP 412)."""


@dataclass(frozen=True)
class Snapshot:
    """One version of the definitions; version 0 is none yet. The version is the ETag of the admin API."""

    version: int = 0
    definitions: Definitions = field(default_factory=Definitions)


@dataclass(frozen=True)
class Change:
    """One line of the audit. when: seconds since 1970, UTC; diff: {path: [before, after]}, null for absent."""

    version: int
    who: str
    when: float
    why: str
    diff: dict[str, list[Json]]


def load_file(path: Path) -> Definitions:
    """YAML or JSON, checked. Raises BadInput naming file and field."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "give the path of a YAML or JSON file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}", "check the line it names") from None
    try:
        definitions = parse_object(raw)
        check(definitions)
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", error.hint) from None
    return definitions


def snapshot(fields: Mapping[bytes, bytes]) -> Snapshot:
    """The reply of `HGETALL exp:definitions` (empty: version 0); pure, for a gateway that reads it asynchronously."""
    if not fields:
        return Snapshot()
    return Snapshot(int(fields[b"version"]), parse(fields[b"body"]))


class ExperimentStore:
    """The definitions in Redis. The client must not decode responses. recipes: gives those with a bundle in service, which alone
    a new interleaving may name; without it all names are taken."""

    def __init__(self, client: redis.Redis, recipes: Callable[[], Collection[str]] | None = None) -> None:
        self._redis, self._recipes = client, recipes

    def read(self) -> Snapshot:
        return snapshot(self._fields())

    def write(self, definitions: Definitions, *, who: str, expected_version: int, why: str = "") -> Snapshot:
        """Store as version expected_version + 1. Raises VersionConflict when that is not what is stored now, BadInput
        when the definitions are wrong or would move units between the arms of an experiment."""
        check(definitions)
        self._file_audit()
        before = self.read()
        if before.version == expected_version:  # else the script below refuses, by what it finds then
            self._check_change(before.definitions, definitions)
        after = Snapshot(expected_version + 1, definitions)
        change = Change(after.version, who, time.time(), why, differences(before.definitions, definitions))
        record = json.dumps(asdict(change))
        arguments = (expected_version, after.version, definitions.body(), record, EXPERIMENTS_CHANGED)
        found = self._redis.eval(_WRITE, 1, EXPERIMENTS, *arguments)
        if found is not None:
            raise _conflict(int(cast(bytes, found)), expected_version)
        self._file_audit()
        return after

    def change(self, amend: Amend, *, who: str, why: str = "", expected_version: int | None = None) -> Snapshot:
        """Write what `amend` makes of the stored definitions. expected_version: refuse any other with VersionConflict;
        without it, try again when somebody else writes in between."""
        while True:
            now = self._at(expected_version)
            try:
                return self.write(amend(now.definitions), who=who, expected_version=now.version, why=why)
            except VersionConflict:
                if expected_version is not None:
                    raise

    def rehearse(self, amend: Amend, expected_version: int | None = None) -> tuple[Snapshot, dict[str, list[Json]]]:
        """What `change` would store, and its diff; raises what it would raise, and stores nothing."""
        now = self._at(expected_version)
        wanted = amend(now.definitions)
        check(wanted)
        self._check_change(now.definitions, wanted)
        return Snapshot(now.version + 1, wanted), differences(now.definitions, wanted)

    def _check_change(self, before: Definitions, after: Definitions) -> None:
        check_change(before, after)
        if self._recipes is not None:
            check_recipes(before, after, self._recipes())

    def _at(self, expected_version: int | None) -> Snapshot:
        now = self.read()
        if expected_version is not None and now.version != expected_version:
            raise _conflict(now.version, expected_version)
        return now

    def history(self, count: int = 100) -> list[Change]:
        """Latest changes first."""
        self._file_audit()
        entries = cast(list[tuple[bytes, dict[bytes, bytes]]], self._redis.xrevrange(EXPERIMENTS_AUDIT, count=count))
        return [Change(**json.loads(fields[b"change"])) for _, fields in entries]

    def note(self, *, who: str, why: str, diff: dict[str, list[Json]]) -> None:
        """Put on record what changed beside the definitions (an alias, an ad). The store numbers its entries `<version>-0`;
        changes between two versions take the numbers after it. Raises WorkFailed where versions change too fast."""
        for _ in range(_NOTE_ATTEMPTS):
            self._file_audit()  # so that the last version's own number stays free for it
            version = self.read().version
            record = json.dumps(asdict(Change(version, who, time.time(), why, diff)))
            try:
                self._redis.xadd(EXPERIMENTS_AUDIT, {b"change": record.encode()}, id=f"{version}-*")
                return
            except redis.ResponseError as error:  # another version came in between
                if "equal or smaller" not in str(error):
                    raise
        raise WorkFailed("the change was made but its record was not", f"definitions change too fast; write it down: {diff}")

    def _fields(self) -> dict[bytes, bytes]:
        return cast(dict[bytes, bytes], self._redis.hgetall(EXPERIMENTS))

    def _file_audit(self) -> None:
        """Copy the last change to the audit stream unless it is there. A write succeeds only on the version whose
        record its writer has filed before, so the stream has no gaps."""
        fields = self._fields()
        if not fields:
            return
        try:
            self._redis.xadd(EXPERIMENTS_AUDIT, {b"change": fields[b"change"]}, id=f"{int(fields[b'version'])}-0")
        except redis.ResponseError as error:
            if "equal or smaller" not in str(error):
                raise


def _conflict(stored: int, expected: int) -> VersionConflict:
    return VersionConflict(f"definitions are at version {stored}, not {expected}", "read again, redo the change")


def differences(before: Definitions, after: Definitions) -> dict[str, list[Json]]:
    """{path: [before, after]} of what differs, null for absent."""
    left, right = (dict(_leaves("", json.loads(one.body()))) for one in (before, after))
    paths = sorted((left.keys() | right.keys()) - {"", "features"})  # leaves where there is nothing
    return {path: [left.get(path), right.get(path)] for path in paths if left.get(path) != right.get(path)}


def _leaves(path: str, value: Json) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}.{index}", inner)
    else:
        yield path, value
