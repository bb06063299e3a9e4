"""What the allocator keeps: a request needs some megabytes of arrays, the same ones every time.

glibc gives large freed blocks back to the kernel and asks for them again, and how much it keeps depends on what was freed before.
Told to keep them, a request on 100,000 ads took .85 of its processor time (4 alternating runs of 250 requests, .82 to .90).
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
_KEPT = 256 << 20  # bytes free at the heap's end before any go back
_GROWTH = 64 << 20  # by which the heap grows; the kernel gives a page when it is touched
_LARGEST_IN_HEAP = 32 << 20  # the most that glibc takes


def keep() -> bool:
    """For this process, from now on. False where the C library is not glibc, which changes nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _GROWTH), (_MMAP_THRESHOLD, _LARGEST_IN_HEAP))
    return all(taken == 1 for taken in [mallopt(option, value) for option, value in wanted])


def give_back() -> None:
    """What is free now. Opening a bundle takes several times what it leaves: files read whole, graphs that rest again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
