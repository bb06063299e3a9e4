"""The weights of a ranker, read from its ONNX file: one truth, whichever way it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.architecture import KEY, Architecture
from contracts.errors import BundleError
from server import onnx_file

F32 = np.ndarray[Any, np.dtype[np.float32]]

_PREFIX = "model."


class NotFused(Exception):
    """Why a ranker is not computed this way: one line for the log and for /readyz."""


@dataclass(frozen=True)
class Weights:
    """arrays: float32, by the names that the model gives them, as the model holds them: a linear layer's is (out, in)."""

    architecture: Architecture
    arrays: dict[str, F32]

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Raises NotFused when the file does not say what it is made of, or says what this version does not read."""
        try:
            notes, arrays = onnx_file.read(path)
            if KEY not in notes:
                raise NotFused("the ranker's file names no architecture")
            architecture = Architecture.parse(notes[KEY])
        except BundleError as error:
            raise NotFused(error.message) from None
        return cls(architecture, {name.removeprefix(_PREFIX): array for name, array in arrays.items()})

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def take(self, name: str, *shape: int | None) -> F32:
        """The array of that name; None in `shape` is any length. Raises NotFused naming what is missing or of another shape."""
        found = self.arrays.get(name)
        if found is None:
            raise NotFused(f"the ranker's file has no weight {name!r}")
        if len(found.shape) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found.shape, strict=True)):
            raise NotFused(f"weight {name!r} has shape {found.shape}, not {shape}")
        return found

    def linear(self, name: str, inputs: int | None = None, outputs: int | None = None) -> tuple[F32, F32]:
        """weight (out, in) and bias (out,) of one linear layer."""
        weight = self.take(f"{name}.weight", outputs, inputs)
        return weight, self.take(f"{name}.bias", weight.shape[0])

    def layers(self, name: str) -> int:
        """How many linear layers an MLP of that name has."""
        count = 0
        while f"{name}.linears.{count}.weight" in self:
            count += 1
        return count
