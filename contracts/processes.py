"""Processes that leave with the one that started them, however it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PARENT_DEATH_SIGNAL = 1  # prctl(2): PR_SET_PDEATHSIG


def die_with_owner(owner: int) -> Callable[[], None]:
    """What runs in a child before exec: leave the terminal's Ctrl-C to the owner, and go when the owner goes."""

    def prepare() -> None:
        os.setpgrp()
        follow(owner)

    return prepare


def follow(owner: int) -> None:
    """SIGTERM to this process when the thread that started it ends; at once when that has happened. Linux only, elsewhere
    nothing."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != owner:  # it went before we asked
        os._exit(1)
