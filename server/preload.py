"""What the process imports that workers are forked from: they share its memory until they write to it.

A further worker takes 100 MiB on 100,000 ads, started from nothing 240: Python's modules and Numba's code are the same in each. A
fork must not copy threads, and ONNX Runtime starts one when it is imported, so each worker does that itself.
"""

from __future__ import annotations

import gc
import logging
from importlib import import_module

from indexer import compiler
from server.settings import Settings

_log = logging.getLogger("mdrec.server")

for _name in (
    "fastapi",
    "hiredis",
    "httptools",
    "redis.asyncio",
    "uvloop",
    "abtest.assign",
    "indexer.coded",
    "server.api",
    "server.metrics",
):
    import_module(_name)
try:
    compiler.configure(Settings().home / "kernels")
    for _name in ("indexer.lists_kernel", "server.fused.rankers"):
        import_module(_name)
except Exception as error:  # no Numba, or whatever reading its cache raises: bundles say so, or do without
    _log.warning("workers load kernels themselves: %r", error)

gc.collect()
gc.freeze()  # a collection would write to every object
