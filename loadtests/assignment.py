"""What assigning a request to its arms costs, and whether GrowthBook's own SDK assigns the same.

    python -m loadtests.assignment [--sdk DIR]

1, 5 and 20 experiments, each with targeting by domain, country and age, a slice of one of four namespaces, coverage and weights.
A user meets them all: `route` is what a request calls, `evaluate` the same features one by one, as the SDK has it. With --sdk the
SDK runs in an environment of its own in DIR (made when it is not there), over the same definitions and users, in turns with
ours, and every arm is compared. Microseconds of processor time a user: the median and the range of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

from abtest.assign import Assigner, seen
from abtest.definitions import parse_object
from abtest.evaluate import Scope, evaluate

SDK = "growthbook==4.0.0"
ROUNDS = 11
USERS = 1_000
COUNTRIES = ("de", "fr", "it", "es")
DOMAINS = ("feed", "search", "video", "mail")
_ASK = Path(__file__).with_name("assignment_sdk.py")

Json = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", type=Path, help="directory of the SDK's environment")
    directory = parser.parse_args().sdk
    python = _environment(directory) if directory else None
    users = [_user(number) for number in range(USERS)]
    print(f"microseconds of processor time a user, {USERS:,} users, {ROUNDS} rounds: median (least to most)")
    for count in (1, 5, 20):
        features = {f"e{number}": {"rules": [_rule(number)]} for number in range(count)}
        _compare(count, features, users, python)


def _compare(count: int, features: Json, users: Sequence[Json], python: Path | None) -> None:
    definitions = parse_object(features)
    assigner = Assigner(definitions)
    theirs = _Sdk(python, features, users) if python else None
    routed: list[float] = []
    evaluated: list[float] = []
    asked: list[float] = []
    for _ in range(ROUNDS):
        started = process_time()
        for user in users:
            assigner.route(user["id"], user["domain"], user)
        routed.append(process_time() - started)
        started = process_time()
        arms = [
            [evaluate(Scope(definitions, seen(user["id"], user["domain"], user)), name).value for name in features]
            for user in users
        ]
        evaluated.append(process_time() - started)
        if theirs is not None:
            seconds, found = theirs.round()
            asked.append(seconds)
            if found != arms:
                differing = sum(left != right for left, right in zip(found, arms, strict=True))
                raise SystemExit(f"{differing} of {len(users)} users are assigned otherwise by {SDK}")
    print(f"{count:3d} experiments: route {_spread(routed)}, evaluate {_spread(evaluated)}", end="")
    print(f", {SDK} {_spread(asked)}, all {count * len(users):,} arms alike" if theirs is not None else "")
    if theirs is not None:
        theirs.close()


def _rule(number: int) -> Json:
    low = (number // 4 % 5) / 5
    return {
        "key": f"e{number}",
        "hashVersion": 2,
        "variations": [{"params": {f"p{number}": 0}}, {"params": {f"p{number}": 1}}, {"params": {f"p{number}": 2}}],
        "meta": [{"key": "control"}, {"key": "one"}, {"key": "two"}],
        "weights": [0.5, 0.25, 0.25],
        "coverage": 0.8,
        "namespace": [f"layer{number % 4}", low, low + 0.2] if number else ["layer0", 0, 1],
        "condition": {"domain": {"$in": ["feed", "search", "video"]}, "country": {"$ne": "it"}, "age": {"$gte": 18}},
    }


def _user(number: int) -> Json:
    """As much as a request knows of one."""
    return {"id": f"u{number}", "domain": DOMAINS[number % 4], "country": COUNTRIES[number // 4 % 4], "age": number % 70}


class _Sdk:
    """The SDK in its process: a line asks for a round, a line answers it."""

    def __init__(self, python: Path, features: Json, users: Sequence[Json]) -> None:
        self._process = subprocess.Popen([str(python), str(_ASK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say({"features": features, "users": [seen(one["id"], one["domain"], one) for one in users]})

    def round(self) -> tuple[float, list[Any]]:
        """Seconds for all users, and each one's values."""
        self._say("round")
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["values"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def _environment(directory: Path) -> Path:
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", SDK], check=True)
    return python


def _spread(seconds: Sequence[float]) -> str:
    each = sorted(one / USERS * 1e6 for one in seconds)
    return f"{statistics.median(each):.1f} ({each[0]:.1f} to {each[-1]:.1f})"


if __name__ == "__main__":
    main()
