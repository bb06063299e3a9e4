"""LightGBM, gradient-boosted trees (Ke et al., NeurIPS 2017), on what the other rankers read.

A row's columns: every scalar code as an ordered number (binned values rise with the value, ids with their rarity: vocabularies
are sorted by falling count); standardised numbers as they are; of a sequence its length and how often the ad (or what else of
the ad it is made of) is in it; the domain, as a categorical feature. Click rates of ids are not recomputed here: the statistics
features hold them for every recipe. On KuaiRand's validation days with them, out-of-fold rates of the ids add nothing (.743 for
.744), nor do small vocabularies as categorical features (.743). Without statistics ordered codes give .732, such rates .743.

It trains in memory, on at most `rows` events (four bytes a column and event): of a larger log evenly spaced ones are read, and a
line says so. It stops on the log-loss of the validation split. Fitted again, on more days, it makes as many trees as before.

The fitted trees are tensors, kept, exported and served like any model's weights. Torch walks them by gathers; an exported graph
holds one TreeEnsembleRegressor instead (300 trees, 500 candidates, one thread of ONNX Runtime: 3.4 ms; gathers 26).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.schema import BLOCK_SIDES, FIRST, PAD, FeatureSchema
from trainer.batches import with_negatives
from trainer.fit import FitSettings
from trainer.layers import Inputs, Ranker
from trainer.progress import progress
from trainer.tables import Tables
from trainer.trees import Trees, grown, walk

_CHUNK_ROWS = 50_000


@dataclass(frozen=True)
class LightGBMConfig:
    """leaves, depth: most of a tree; rounds: trees where no validation split stops it; most_rounds: where one does; patience:
    trees without a better log-loss; rows: most events that are read.

    KuaiRand's validation days: 15, 31 and 63 leaves .7435 .7434 .7427, depths 6, 8 and unbounded .7436 .7433 .7434, 200 rows a
    leaf .742, columns .3 .743, rate .03 .744 with half as many trees again."""

    leaves: int = 31
    depth: int = 8
    rounds: int = 250
    most_rounds: int = 2_000
    patience: int = 50
    learning_rate: float = 0.05
    rows_per_leaf: int = 50
    rows: int = 4_000_000


VARIANTS: dict[str, dict[str, Any]] = {}


class LightGBM(Ranker):
    def __init__(self, schema: FeatureSchema, config: LightGBMConfig, sensitive: Sequence[str] = ()) -> None:
        super().__init__(schema)
        self.config = config
        self.domains = len(schema.domains)
        fields = {name: schema.block(name).fields for name in BLOCK_SIDES}
        self._codes = {
            name: [one.start for one in found if one.matrix == "codes" and one.kind != "sequence"]
            for name, found in fields.items()
        }
        self._dense = {name: [one.start for one in found if one.matrix == "dense"] for name, found in fields.items()}
        self._sequences = [one for one in fields["user"] if one.kind == "sequence"]
        self._ad_columns = {one.table: one.start for one in fields["ad"] if one.matrix == "codes"}
        self.trees = Trees(self.domains)

    def forward(self, inputs: Inputs) -> Tensor:
        return walk(self._columns(inputs), inputs.domain, self.trees, self.config.depth)

    def _columns(self, inputs: Inputs) -> Tensor:
        """columns_BC, all but the domain."""
        parts = []
        for name in BLOCK_SIDES:
            codes, dense = inputs.block(name)
            parts += [codes[:, self._codes[name]].float(), dense[:, self._dense[name]]]
        for one in self._sequences:
            codes_RL = inputs.user_codes[:, one.columns]
            parts.append((codes_RL != PAD).sum(dim=1, keepdim=True).float())
            if one.table in self._ad_columns:
                own_B1 = inputs.ad_codes[:, self._ad_columns[one.table], None]
                parts.append(((codes_RL == own_B1) & (own_B1 >= FIRST)).sum(dim=1, keepdim=True).float())
        return torch.cat([one.expand(inputs.rows, -1) for one in parts], dim=1)

    def fit_whole(self, tables: Tables, settings: FitSettings) -> None:
        import lightgbm  # here: its wheel wants the system's OpenMP runtime, which those who train other models may lack

        columns_BC, label_B = self._matrix(tables, "train", settings)
        parameters = self._asked(settings.seed)
        train = lightgbm.Dataset(columns_BC, label_B, params=parameters, categorical_feature=[columns_BC.shape[1] - 1])
        rounds, valid = len(self.trees), []
        callbacks: list[Callable[..., Any]] = []
        if not rounds:
            held_out = self._matrix(tables, "valid", settings)
            rounds = self.config.rounds
            if len(held_out[1]):
                rounds = self.config.most_rounds
                callbacks.append(lightgbm.early_stopping(self.config.patience, verbose=False))
                valid.append(lightgbm.Dataset(*held_out, reference=train))
        with progress("LightGBM", rounds) as bar:
            callbacks.append(lambda _: bar.advance())
            booster = lightgbm.train(parameters, train, rounds, valid, callbacks=callbacks)
        kept = booster.best_iteration if valid else rounds
        self.trees.plant(grown(booster.dump_model(num_iteration=kept), self.domains, 2 * self.config.leaves - 1))

    def _asked(self, seed: int) -> dict[str, Any]:
        """As many threads as torch has; the same trees however many they are."""
        return {
            "objective": "binary",
            "num_leaves": self.config.leaves,
            "max_depth": self.config.depth,
            "learning_rate": self.config.learning_rate,
            "min_data_in_leaf": self.config.rows_per_leaf,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "use_missing": False,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
        }

    def _matrix(self, tables: Tables, split: str, settings: FitSettings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """columns_BC, the domain last, and label_B; sampled negatives where the data are positives only."""
        negatives = settings.negatives if tables.positives_only else 0
        total = tables.split_size(split)
        size = min(total, self.config.rows // (1 + negatives))
        if size < total:
            with progress("LightGBM", 1) as bar:
                bar.say(f"LightGBM trains in memory: it reads {size:,} of {total:,} {split} events, evenly spaced")
        rows = np.arange(size) * total // max(size, 1)
        rng = np.random.default_rng(settings.seed)
        columns, labels = [], []
        for start in range(0, max(size, 1), _CHUNK_ROWS):
            batch = tables.batch(split, rows[start : start + _CHUNK_ROWS])
            if negatives and size:
                batch = with_negatives(tables, batch, negatives, rng)
            domain_B1 = batch.inputs.domain[:, None].float()
            columns.append(torch.cat([self._columns(batch.inputs), domain_B1], dim=1).numpy())
            labels.append(batch.label.numpy())
        return np.concatenate(columns), np.concatenate(labels)
