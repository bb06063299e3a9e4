"""State of a fit at the end of an epoch, as safetensors and JSON: whole or absent, never pickled.

The JSON names the state file and is replaced last; a run that dies in between starts again from the older pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contracts.files import aside, read_json, write_json

WEIGHTS = "weights.safetensors"
_PROGRESS = "progress.json"


@dataclass
class Position:
    """Where a fit stands. settings: what it runs under, seed included; with `epoch` they are the whole state of every random
    draw. epoch: epochs finished; metrics: the validation metric after each, None where it cannot be had; seconds: training
    time so far."""

    settings: dict[str, Any]
    epoch: int = 0
    metrics: list[float | None] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    rows: int = 0
    finished: bool = False


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Equal tensors, equal bytes."""
    with aside(path) as temporary:
        save_file({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}, temporary)


def load_weights(model: nn.Module, path: Path) -> None:
    model.load_state_dict(load_file(path))


class Checkpoints:
    """The checkpoints of one fit under `directory`; `best.safetensors` holds the weights of the best epoch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.best = directory / "best.safetensors"

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Position:
        """Continue where the last whole checkpoint stands, or start. A checkpoint made under other settings is not continued."""
        progress = self.directory / _PROGRESS
        position = Position(**read_json(progress)) if progress.is_file() else Position(settings)
        if position.settings != settings:
            position = Position(settings)
        if position.epoch:
            tensors = load_file(self._state(position.epoch))
            model.load_state_dict(_unprefixed(tensors, "model."))
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _unprefixed(tensors, "optimizer.").items():
                number, _, key = name.partition(".")
                slots.setdefault(int(number), {})[key] = tensor
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        return position

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
        state: dict[str, Any] = optimizer.state_dict()["state"]
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"optimizer.{number}.{key}": value for number, slot in state.items() for key, value in slot.items()}
        if position.best_epoch == position.epoch:
            save_weights(self.best, model.state_dict())
        save_weights(self._state(position.epoch), tensors)
        write_json(self.directory / _PROGRESS, asdict(position))
        for path in self.directory.glob("state-*.safetensors"):
            if path != self._state(position.epoch):
                path.unlink()

    def _state(self, epoch: int) -> Path:
        return self.directory / f"state-{epoch:04d}.safetensors"


def _unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
