"""What a gateway reads of an ONNX file by itself: its metadata and its float32 initialisers.

The gateway has ONNX Runtime, which gives neither, and not the onnx package. An ONNX file is a protocol buffer: a message is a
run of (field number, wire type) keys, each followed by a varint, 4 or 8 bytes, or a length and that many bytes. Field numbers
are those of onnx.proto.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BundleError

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 8, 9
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_FLOAT = 1
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """(metadata, float32 initialisers by name). The arrays are the mapped file: workers share its pages, and what nobody reads
    takes no memory. One that does not lie at a multiple of 4 bytes is a copy (trainer/export.py sees to the largest).
    Raises BundleError for a file that is missing, cut short or no protocol buffer."""
    notes: dict[str, str] = {}
    arrays: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    try:
        for number, value in _fields(memoryview(_mapped(path))):
            if number == _MODEL_METADATA:
                entry = dict(_fields(value))
                notes[_text(entry[_ENTRY_KEY])] = _text(entry.get(_ENTRY_VALUE, b""))
            elif number == _MODEL_GRAPH:
                for inner, tensor in _fields(value):
                    if inner == _GRAPH_INITIALIZER:
                        arrays.update(_tensor(tensor))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} is not an ONNX file: {error!r}", "restore it or roll back to another bundle") from None
    return notes, arrays


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # to Numba, read-only arrays are of another type
    except FileNotFoundError:
        raise BundleError(f"{path} is missing", "restore it or roll back to another bundle") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}", "restore it or roll back to another bundle") from None


def _tensor(message: memoryview) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    shape: list[int] = []
    found: dict[int, Any] = {}
    for number, value in _fields(message):
        if number == _TENSOR_DIMS:
            shape.extend([value] if isinstance(value, int) else _varints(value))
        else:
            found[number] = value
    data = found.get(_TENSOR_RAW) or found.get(_TENSOR_FLOATS, b"")  # floats are stored packed
    if found[_TENSOR_TYPE] == _FLOAT and len(data) == 4 * math.prod(shape):
        yield _text(found[_TENSOR_NAME]), _aligned(np.frombuffer(data, dtype="<f4").reshape(shape))


def _aligned(array: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return array if array.flags.aligned else array.copy()


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value): an int, or the bytes of what is longer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value: Any
            value, at = _varint(message, at)
        else:
            if kind == _LENGTH:
                size, at = _varint(message, at)
            elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
                size = 8 if kind == _EIGHT_BYTES else 4
            else:
                raise ValueError(f"wire type {kind} at byte {at}")
            if at + size > len(message):
                raise ValueError(f"field {key >> 3} ends after the file")
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """(value, where it ends): seven bits a byte, lowest first, the eighth says that more follow."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _text(value: Any) -> str:
    return bytes(value).decode()
