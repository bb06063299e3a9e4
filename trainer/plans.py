"""What a plan of a model is: its configuration, how it is built and trained, and its variants by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.schema import FeatureSchema
from trainer.fit import FitSettings
from trainer.layers import Ranker
from trainer.two_tower import Retriever

Variants = Mapping[str, Mapping[str, Any] | Callable[[Any], Any]]  # changed fields, or base config -> config
Selection = Literal["top", "last", "all"]


@dataclass(frozen=True)
class RankerPlan:
    """build(schema, config, sensitive features). selection: which end of the attribution feeds it, None: it reads none;
    seeded: whether a seed decides anything."""

    name: str
    config: Any
    build: Callable[[FeatureSchema, Any, Sequence[str]], Ranker]
    settings: FitSettings = field(default_factory=FitSettings)
    remembers: bool = False
    seeded: bool = True
    variants: Variants = field(default_factory=dict)

    @property
    def selection(self) -> Selection | None:
        reads = self.remembers and not getattr(self.config, "base_only", False)
        return self.config.selection if reads else None


@dataclass(frozen=True)
class RetrieverPlan:
    """schedule: how it is trained, where that is part of its configuration; servable: a TwoTower, which a bundle can hold;
    seeded: as for rankers."""

    name: str
    config: Any
    build: Callable[[FeatureSchema, Any], Retriever]
    settings: FitSettings = field(default_factory=FitSettings)
    schedule: Callable[[Any], FitSettings] | None = None
    servable: bool = True
    seeded: bool = True
    variants: Variants = field(default_factory=dict)
