"""mdrec's whole request beside what others would write, on the same bundle, users and machine.

    python -m loadtests.peers install [NAME ...]     an environment a peer, under --environments
    python -m loadtests.peers [NAME ...]             compare mdrec with these, by default with all that are installed
    python -m loadtests.peers.growth                 how mdrec itself behaves as ads, domains, workers and callers grow

All servers run at once, each pinned to the same core, and are loaded in turn; the generator, Redis and this program have another.
The column `idle` says what each takes of the core while another is loaded: Ray Serve's daemons take enough to deserve a run of
their own.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from contracts.errors import MdrecError
from loadtests.peers import compare, install
from loadtests.peers.catalogue import MDREC_NAME, PEERS

ENVIRONMENTS = Path(".mdrec/peers")
REPORT = Path(".mdrec/peers-report")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; or `install` and names")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where peers are installed")
    parser.add_argument("--world", type=Path, default=compare.WORLD, help="built there, if it is not (loadtests/peers/world.py)")
    parser.add_argument("--ads", type=int, default=100_000, help="of a world that has to be built")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of closed-loop load")
    parser.add_argument("--seconds", type=float, default=2.5, help="of closed-loop load, a server, round and number of callers")
    parser.add_argument("--open-seconds", type=float, default=7.0, help="of open-loop load, a server and rate; 0 for none")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64], help="at once, in closed-loop load")
    parser.add_argument(
        "--out", type=Path, default=Path(".mdrec/peers-report"), help="stem of the .json, .md and .png that are written"
    )
    given = parser.parse_args(arguments)
    install_asked = given.names[:1] == ["install"]
    names = given.names[1:] if install_asked else given.names
    unknown = [one for one in names if one not in PEERS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped on the way out
    try:
        if install_asked:
            return install.install(names or list(PEERS), given.environments)
        missing = install.missing(given.environments)
        for one in missing:
            print(f"{one} is not installed: python -m loadtests.peers install {one}", file=sys.stderr)
        chosen = [one for one in names or PEERS if one != MDREC_NAME]
        if names and (absent := [one for one in chosen if one in missing]):
            parser.error(f"not installed: {', '.join(absent)}")
        plan = compare.Plan(given.rounds, given.seconds, given.open_seconds, tuple(given.callers))
        present = [MDREC_NAME, *(one for one in chosen if one not in missing)]
        compare.compare(present, given.world, given.ads, given.environments, plan, given.out)
    except MdrecError as error:
        print(f"error {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
