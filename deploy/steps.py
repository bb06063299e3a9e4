"""Steps of a night: each is named by the digest of all it depends on, finished once, and skipped ever after.

A killed night resumes where it was: a step's directory counts only when `done.json`, written last, is in it.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contracts.files import read_json, write_json

_DONE = "done.json"
_ROOMS = ("contracts", "trainer", "indexer")

Watch = Callable[[str, float | None, bool], None]


class Steps:
    """Runs steps under `directory`. seconds: wall time by step name (as first measured, also when reused). watch: is told
    (name, None, False) of a step that begins, (name, seconds, reused) of one that is done."""

    def __init__(self, directory: Path, say: Callable[[str], None], watch: Watch = lambda name, seconds, reused: None) -> None:
        self._directory = directory
        self._say, self._watch = say, watch
        self.source = _source_digest()
        self.seconds: dict[str, float] = {}

    def path(self, name: str, depends_on: Mapping[str, Any]) -> Path:
        return self._directory / f"{name}-{digest({**depends_on, 'source': self.source})[:16]}"

    def finished(self, name: str, depends_on: Mapping[str, Any]) -> bool:
        return (self.path(name, depends_on) / _DONE).is_file()

    def run(self, name: str, depends_on: Mapping[str, Any], work: Callable[[Path], object], resumable: bool = False) -> Path:
        """Return the finished step's directory. A step that is not `resumable` starts from an empty directory."""
        path = self.path(name, depends_on)
        marker = path / _DONE
        if marker.is_file():
            self.seconds[name] = read_json(marker)["seconds"]
            self._say(f"{name:<28} reused")
            self._watch(name, self.seconds[name], True)
            return path
        if path.exists() and not resumable:
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        self._say(f"{name:<28} …")
        self._watch(name, None, False)
        started = time.perf_counter()
        work(path)
        seconds = time.perf_counter() - started
        write_json(marker, {"name": name, "seconds": seconds, "depends_on": json.loads(json.dumps(depends_on, default=str))})
        self.seconds[name] = seconds
        self._watch(name, seconds, False)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._say(f"{name:<28} {seconds:7.1f} s   peak memory so far {peak:,.0f} MiB")
        return path


def digest(value: Mapping[str, Any]) -> str:
    """sha256 of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _source_digest() -> str:
    """Digest of the code that decides a bundle's content: other code, other steps."""
    root = Path(__file__).resolve().parent.parent
    hashed = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            hashed.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()[:16]
