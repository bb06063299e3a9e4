"""How kernels are compiled: Numba, ahead of the first request, its machine code kept under the home between starts.

`configure`, or at least `use_wide_vectors`, is called before a module of kernels is imported. A cache directory that cannot be
written is told and done without, and so is one that somebody else may write: what stands there is run, and Numba reads it with
pickle.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_log = logging.getLogger("mdrec.server")

_kept: list[Path] = []  # the directory, once it is known to be writable

# No NaN or infinity is assumed away: a broken weight must show.
_FAST = {"contract", "reassoc", "nsz", "arcp"}


def configure(directory: Path | None) -> None:
    """Keep machine code under `directory`. Does nothing once kernels are loaded. Raises ImportError without Numba."""
    use_wide_vectors()
    from numba import config
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "blas")  # parallelism comes from workers, as for the graphs
    if directory is None:
        return
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{directory} is not this user's alone to write")
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        _log.warning("kernels are compiled at every start: %s cannot be used: %s", directory, error)
        return
    setattr(config, "CACHE_DIR", str(directory))  # noqa: B010  Numba's module makes its settings at import
    _kept[:] = [directory]


def use_wide_vectors() -> None:
    """Where the processor has them. Read when Numba is imported. Raises ImportError without Numba."""
    wide = _wide_vectors()
    if wide is not None and "NUMBA_CPU_FEATURES" not in os.environ:
        os.environ["NUMBA_CPU_FEATURES"] = wide


def without_cache(why: Exception) -> None:
    """Throw away what is kept, which could not be used, and keep nothing more. Raises `why` when nothing was kept."""
    if not _kept:
        raise why
    _log.warning("kernels are compiled at this start: what is kept of them under %s cannot be used: %r", _kept[0], why)
    shutil.rmtree(_kept.pop(), ignore_errors=True)


def compiled(signature: Any, inline: str = "never", alone: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Numba's njit with division as in NumPy (no branch on zero) and sums in any order. signature: a text or a Numba type; None:
    compiled where it is used, as a part of others. alone: no other Python thread runs meanwhile."""
    from numba import njit

    jit: Any = njit
    common: dict[str, Any] = {"error_model": "numpy", "fastmath": _FAST}
    found: Callable[[Callable[..., Any]], Callable[..., Any]]
    found = jit(inline=inline, **common) if signature is None else jit(signature, cache=bool(_kept), nogil=not alone, **common)
    return found


def _wide_vectors() -> str | None:
    """The host's features without the preference for 256-bit vectors, where it has 512-bit ones; None elsewhere."""
    from llvmlite.binding import get_host_cpu_features

    features = get_host_cpu_features()
    if not features.get("avx512f"):
        return None
    features["prefer-256-bit"] = False
    text: str = features.flatten()
    return text
