"""Processes that train for another one: few threads each, deaf to Ctrl-C, gone when their owner goes."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process

import torch


def begin(threads: int) -> None:
    """What such a process does first. Ctrl-C is its owner's to hear; an owner that is killed takes it along."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_owner, daemon=True).start()


def _end_with_owner() -> None:
    owner = parent_process()
    if owner is not None:
        owner.join()
        os._exit(1)
