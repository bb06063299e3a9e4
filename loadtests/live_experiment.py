"""An experiment from its plan to its promotion, live, and a regression that is rolled back: real gateway, Locust, `mdrec ab`.

    python -m loadtests.live_experiment [--answers 15000] [--lift 0.3] [--harm 0.3]

MDREC_HOME holds bundles of two recipes; it is left as it was. In the first experiment the challenger's ads are clicked
more often in two of the four domains, and what `mdrec ab apply` decides is done: promoted. In the second, over the new
champion, the challenger's are clicked less often: rolled back. Exit code 1 when either ends otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from contracts.errors import BadInput
from loadtests.traffic import Traffic, dataset_directory
from loadtests.whole import Whole

_TOKEN = "live"
_AS_OPERATOR = {"Authorization": f"Bearer {_TOKEN}", "X-Operator": "live"}
_REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=15_000, help="of each experiment")
    parser.add_argument("--visitors", type=int, default=6_000)
    parser.add_argument("--lift", type=float, default=0.3, help="planted in two domains, of the click rate")
    parser.add_argument("--harm", type=float, default=0.3, help="planted in the other two afterwards")
    parser.add_argument("--port", type=int, default=18_098)
    asked = parser.parse_args()
    home = Path(os.environ.get("MDREC_HOME", ".mdrec"))
    domains = sorted(set(Traffic.read(dataset_directory(), seed=0).domains))
    with TemporaryDirectory() as scratch:
        world = Whole(home, Path(scratch), asked.port, MDREC_OPERATOR_TOKEN=_TOKEN, MDREC_LOAD_VISITORS=str(asked.visitors))
        try:
            world.wait_until_ready()
            champion, challenger = _two_recipes(world)
            helped = dict.fromkeys(domains[: len(domains) // 2], asked.lift)
            first = _run(world, "lift", champion, challenger, helped, asked.answers)
            crowned = _champion(world)
            print(f"champion: {crowned}\n", flush=True)
            harmed = dict.fromkeys(domains[len(domains) // 2 :], -asked.harm)
            second = _run(world, "regression", challenger, champion, harmed, asked.answers)
            kept = _champion(world)
            print(f"champion: {kept}")
            for change in world.ask("GET", "/admin/v1/audit", **_AS_OPERATOR)[1]:
                what = f"{change['why'][:100]} {json.dumps(change['diff'])[:160]}"
                print(f"audit: version {change['version']} by {change['who']}: {what}")
        finally:
            world.close()
    done = first == "promote" and crowned == challenger and second == "roll_back" and kept == challenger
    sys.exit(0 if done else 1)


def _run(world: Whole, key: str, control: str, challenger: str, planted: dict[str, float], answers: int) -> str:
    """One experiment; returns the decision that was applied."""
    print(f"== {key}: {challenger} against {control}, planted in the challenger: {planted}", flush=True)
    rule = {
        "key": key,
        "variations": [{"recipe": control}, {"recipe": challenger}],
        "meta": [{"key": "control"}, {"key": "challenger"}],
        "hashVersion": 2,
    }
    now = world.ask("GET", "/admin/v1/experiments", **_AS_OPERATOR)[1]
    features = {**now["definitions"].get("features", {}), key: {"rules": [rule]}}
    world.ask(
        "PUT",
        "/admin/v1/experiments",
        {"features": features},
        **_AS_OPERATOR,
        **{"If-Match": f'"{now["version"]}"', "X-Why": key},
    )
    plan = world.home / f"{key}.yaml"
    plan.write_text("primary: ctr\nguardrails: {ecpm: 0.05}\nleast_lift: 0.05\nplanned_units: 6000\n")
    world.command("ab", "plan", key, str(plan))
    started = time.monotonic()
    environment = {
        **world.environment,
        "MDREC_PLANTED_ARM": "challenger",
        "MDREC_PLANTED_LIFT": ",".join(f"{name}={lift}" for name, lift in planted.items()),
        "MDREC_LOAD_ANSWERS": str(answers),
        "MDREC_URL": world.url,
    }
    locust = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtests/planted_lift.py",
        "--headless",
        "--only-summary",
        "--users",
        "8",
        "--spawn-rate",
        "8",
    ]
    subprocess.run(locust, cwd=_REPOSITORY, env=environment, check=True, stderr=subprocess.DEVNULL)
    print(f"{time.monotonic() - started:.0f} s of load", flush=True)
    print(world.command("ab", "report", key))
    said = world.command("ab", "apply", key, "--why", "planted")
    print(said, flush=True)
    return said.partition(":")[0]


def _two_recipes(world: Whole) -> tuple[str, str]:
    """The champion, and another live recipe."""
    champion = _champion(world)
    others = sorted(
        one["recipe"] for one in world.ask("GET", "/admin/v1/aliases", **_AS_OPERATOR)[1]["aliases"] if one["recipe"] != champion
    )
    if not others:
        raise BadInput("the home serves one recipe only", "run `mdrec nightly --data DIR --recipe A --recipe B`")
    return champion, others[0]


def _champion(world: Whole) -> str:
    return str(world.ask("GET", "/admin/v1/aliases", **_AS_OPERATOR)[1]["champion"])


if __name__ == "__main__":
    main()
