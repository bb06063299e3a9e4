"""Files that are either whole or absent: write aside, fsync, rename. Arrays without pickle."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BundleError

_NPY_HEADER_BYTES = 128


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`: of all processes and threads that ask for it, one at a time; a process that dies lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_bytes(path: Path, data: bytes) -> None:
    with aside(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, so that equal content has equal bytes."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Raises BundleError naming the file when it is missing or cut short."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path} is missing", "rebuild it, or point at the directory that holds it") from None
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON: {error}", "the file was cut short or altered; rebuild it") from None


def save_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.hasobject:
        raise TypeError(f"{path.name}: object arrays need pickle and are never stored")
    with aside(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def load_array(path: Path, mmap: bool = True) -> np.ndarray[Any, Any]:
    """Memory-mapped read-only by default, so that workers share one copy. Raises BundleError naming the file."""
    try:
        if mmap and path.stat().st_size > _NPY_HEADER_BYTES:  # an empty array cannot be mapped
            array: np.ndarray[Any, Any] = np.lib.format.open_memmap(path, mode="r")
            return array
        with path.open("rb") as file:  # not np.load, which also takes archives and calls an empty file EOFError
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except FileNotFoundError:
        raise BundleError(f"{path} is missing", "rebuild the directory that holds it") from None
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} is not a readable array: {error}", "the file was cut short or altered; rebuild it") from None


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_dir(temporary: Path, final: Path) -> None:
    """Publish a finished directory under its final name, replacing an older one."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for path in temporary.rglob("*"):
        if path.is_file():
            _fsync(path)
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
