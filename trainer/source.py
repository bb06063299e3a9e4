"""Which code a result came from: a digest of the modules that a model and its training are made of, and of no other."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_ROOMS = ("contracts", "trainer")
# Tables of names: what a result takes from them, its own plan, is part of its key already. Followed, they would lead from every
# model to every other.
_REGISTRIES = ("trainer.recipes", "trainer.rankers", "trainer.retrievers")


@cache
def source_digest(modules: tuple[str, ...]) -> str:
    """16 hex digits over the sources of the modules and of everything of the project that they import, as they stand when first
    asked for: what is edited later is not what runs."""
    hashed = hashlib.sha256()
    for name in sorted(source_closure(modules)):
        hashed.update(name.encode() + b"\0" + _file(name).read_bytes() + b"\0")  # type: ignore[union-attr]
    return hashed.hexdigest()[:16]


def source_closure(modules: Iterable[str]) -> set[str]:
    """The modules and all of the project that they import, by dotted name."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is not None and name not in seen:
            seen.add(name)
            waiting += [one for one in _imports(path) if one not in _REGISTRIES]
    return seen


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that could be modules: `from a import b` gives "a" and "a.b"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{one.name}" for one in node.names))


def _file(name: str) -> Path | None:
    """The source of a module of the project; None for anything else."""
    if name.split(".")[0] not in _ROOMS:
        return None
    path = _ROOT.joinpath(*name.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)
