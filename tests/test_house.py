"""The plan of the house, read from the source: who imports whom, what stays out of the serving process, and no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("contracts", "trainer", "indexer", "abtest", "server", "deploy", "loadtests")
MAY_IMPORT = {
    "contracts": set(),
    "trainer": {"contracts"},
    "indexer": {"contracts"},
    "abtest": {"contracts"},
    "server": {"contracts", "indexer.index", "indexer.grown", "indexer.compiler", "abtest"},
    "deploy": {"contracts", "trainer", "indexer", "abtest", "server"},
    "loadtests": {"contracts", "trainer", "indexer", "abtest", "server", "deploy"},
}
WITHOUT_TORCH = ("contracts", "indexer", "abtest", "server")


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, also those inside functions. `from a import b` gives "a.b"."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its rank"
            yield from ((node.lineno, f"{node.module}.{one.name}") for one in node.names)


def under(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_rank_allows(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(room)
        for line, name in imports(path)
        if name.split(".")[0] in {*ROOMS, "tests"} and not under(name, allowed)
    ]
    assert broken == []


def test_contracts_need_only_the_standard_library_numpy_and_pydantic() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "pydantic", "contracts"}
    assert [
        (path.name, name) for path in sources("contracts") for _, name in imports(path) if name.split(".")[0] not in allowed
    ] == []


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_pickled(room: str) -> None:
    pickling = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert [(path.name, name) for path in sources(room) for _, name in imports(path) if name.split(".")[0] in pickling] == []


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_importing_every_module_of_a_serving_room_loads_no_torch(room: str) -> None:
    """In a process of its own. (A hook on the import itself would also catch libraries that only ask whether torch exists.)"""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources(room)]
    program = f"""
import importlib, sys
for name in {[name for name in names if not name.endswith("__main__")]!r}:
    importlib.import_module(name)
    loaded = {{"torch", "trainer"}} & set(sys.modules)
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
