"""An environment of its own for each peer that needs one: their pins contradict each other's and the project's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.peers.catalogue import PEERS


def missing(environments: Path) -> list[str]:
    return [name for name, peer in PEERS.items() if not peer.installed(environments)]


def install(names: Sequence[str], environments: Path) -> int:
    """Make the environments that are not there. Exit code 1 when one could not be made: the others are, and pip said why."""
    failed = []
    for name in names:
        peer, directory = PEERS[name], environments / name
        if peer.installed(environments):
            print(f"{name}: {'installed' if peer.requirements else 'needs nothing of its own'}")
            continue
        shutil.rmtree(directory, ignore_errors=True)
        python = directory / "bin" / "python"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *peer.requirements]
        made = [[sys.executable, "-m", "venv", str(directory)], pip]
        if all(subprocess.run(one).returncode == 0 for one in made):
            (directory / "installed").write_text("\n".join(peer.requirements) + "\n")
            print(f"{name}: installed in {directory}")
        else:
            failed.append(name)
    if failed:
        print(f"not installed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
