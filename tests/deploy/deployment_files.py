"""Reads the deployment files: a Dockerfile as its instructions, a command line as the `mdrec` command would parse it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer.main

REPOSITORY = Path(__file__).parents[2]
_KEYWORDS = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


@dataclass(frozen=True)
class Instruction:
    keyword: str
    text: str

    @property
    def exec_form(self) -> list[str]:
        """The JSON array at its end, as of CMD and HEALTHCHECK."""
        parsed = json.loads(self.text[self.text.index("[") :])
        assert all(isinstance(one, str) for one in parsed)
        return list(parsed)


def stages(dockerfile: Path) -> dict[str, list[Instruction]]:
    """Stage name ("" when it has none) -> everything that happens in it, its parents' instructions first."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        keyword, _, rest = line.strip().partition(" ")
        assert keyword in _KEYWORDS, f"{dockerfile.name}: {keyword} is not known here"
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = list(found.get(base, []))
        current.append(Instruction(keyword, " ".join(rest.split())))
    return found


def copies(stage: list[Instruction]) -> list[tuple[str, str]]:
    """(source, destination) of every COPY, relative to the repository and to WORKDIR."""
    pairs = []
    for one in stage:
        if one.keyword == "COPY":
            *sources, destination = shlex.split(one.text)
            pairs += [(source, f"{destination}{source}" if destination.endswith("/") else destination) for source in sources]
    return pairs


def last(stage: list[Instruction], keyword: str) -> Instruction:
    return [one for one in stage if one.keyword == keyword][-1]


def pip_steps(stage: list[Instruction]) -> list[list[str]]:
    runs = [shlex.split(one.text) for one in stage if one.keyword == "RUN"]
    return [run for run in runs if run[:4] == ["python", "-m", "pip", "install"]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps this path out of the build."""
    patterns = (REPOSITORY / ".dockerignore").read_text().split()
    parts = path.split("/")
    leading = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatch.fnmatch(one, pattern.removeprefix("**/")) for pattern in patterns for one in leading)


def check_command(arguments: list[str]) -> None:
    """Parse `mdrec ...` with the real command, running nothing. Raises click.UsageError on what it would refuse."""
    from deploy.cli import app

    assert Path(arguments[0]).name == "mdrec"
    group = typer.main.get_command(app)
    context = group.make_context("mdrec", arguments[1:2])
    name, command, _ = group.resolve_command(context, arguments[1:])
    command.make_context(name, arguments[2:], parent=context)
