"""A process that follows leaves with the one that started it, even when that one is killed."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")

# A parent that starts a child, tells its number and waits. The child follows, says so, and would wait for ever.
PARENT = """
import os, subprocess, sys
code = "import os, signal; from contracts.processes import follow; follow(int(%r)); print('here', flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code % str(%s)])
child.wait()
"""


def test_a_child_goes_when_its_parent_is_killed() -> None:
    """The pipe is at its end only when the last of those who hold it has gone."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT.replace("%s)", "os.getpid())")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"here\n"
    parent.kill()
    parent.wait()
    readable, _, _ = select.select([parent.stdout], [], [], 20)
    assert readable and os.read(parent.stdout.fileno(), 1) == b""


def test_who_comes_too_late_to_follow_leaves_at_once() -> None:
    code = "from contracts.processes import follow; follow(1 << 30); print('stayed')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
