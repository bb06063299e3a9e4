"""Regression trees as tensors: walked by gathers in torch, one TreeEnsembleRegressor in an exported graph.

T trees of N places each. The children of an inner place stand side by side: left at `left`, right at `left + 1`. A leaf is its
own left child and lets nothing pass to the right. A place sends a row right when column > threshold. The columns are the caller's
C numbers, then M columns that tell whether the domain is outside each set of domains that the trees split by.

Shapes: B rows, R rows of the domain (B, or 1 for all), P = T * N places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Forest(NamedTuple):
    """column, left: (T, N) int32; threshold, value: (T, N) float32; outside: (D, M) float32."""

    column: NDArray[np.int32]
    left: NDArray[np.int32]
    threshold: NDArray[np.float32]
    value: NDArray[np.float32]
    outside: NDArray[np.float32]


class Trees(nn.Module):
    """A forest as buffers of whatever size it has; none at first."""

    column: Tensor
    left: Tensor
    threshold: Tensor
    value: Tensor
    outside: Tensor

    def __init__(self, domains: int) -> None:
        super().__init__()
        for name in Forest._fields:
            kind = torch.int32 if name in ("column", "left") else torch.float32
            shape = (domains, 0) if name == "outside" else (0, 1)
            self.register_buffer(name, torch.zeros(shape, dtype=kind))

    def __len__(self) -> int:
        return self.column.shape[0]

    def plant(self, forest: Forest) -> None:
        for name, array in forest._asdict().items():
            setattr(self, name, torch.from_numpy(array).to(self.column.device))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """As many trees as were kept, whatever stands here."""
        for name in Forest._fields:
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def walk(columns_BC: Tensor, domain_R: Tensor, trees: Trees, depth: int) -> Tensor:
    """The sum of the trees' values, sum_B. depth: at least that of the deepest tree."""
    outside_BM = trees.outside[domain_R].expand(columns_BC.shape[0], -1)  # a len() would be traced as a constant
    sum_B: Tensor = _Walk.apply(torch.cat([columns_BC, outside_BM], dim=1), trees, depth)  # type: ignore[no-untyped-call]
    return sum_B


class _Walk(torch.autograd.Function):
    """Only forward, and what stands for it in an ONNX graph."""

    @staticmethod
    def forward(ctx: Any, columns_BC: Tensor, trees: Trees, depth: int) -> Tensor:
        number, places = trees.column.shape
        column_P, left_P = trees.column.flatten().long(), trees.left.flatten().long()
        threshold_P = trees.threshold.flatten()
        first_T = torch.arange(number, device=columns_BC.device) * places
        left_P = left_P + first_T.repeat_interleave(places)
        at_BT = first_T.expand(len(columns_BC), -1)
        for _ in range(depth):
            at_BT = left_P[at_BT] + (columns_BC.gather(1, column_P[at_BT]) > threshold_P[at_BT])
        return trees.value.flatten()[at_BT].sum(dim=1)

    @staticmethod
    def symbolic(graph: Any, columns_BC: Any, trees: Trees, depth: int) -> Any:
        number, places = trees.column.shape
        tree_P, place_P = np.divmod(np.arange(number * places), places)
        left_P = trees.left.flatten().numpy()
        is_leaf_P = left_P == place_P
        sum_B1 = graph.op(
            "ai.onnx.ml::TreeEnsembleRegressor",
            columns_BC,
            n_targets_i=1,
            nodes_treeids_i=tree_P.tolist(),
            nodes_nodeids_i=place_P.tolist(),
            nodes_featureids_i=trees.column.flatten().tolist(),
            nodes_modes_s=["LEAF" if one else "BRANCH_LEQ" for one in is_leaf_P],
            nodes_values_f=np.where(is_leaf_P, 0.0, trees.threshold.flatten().numpy()).tolist(),
            nodes_truenodeids_i=np.where(is_leaf_P, 0, left_P).tolist(),
            nodes_falsenodeids_i=np.where(is_leaf_P, 0, left_P + 1).tolist(),
            target_treeids_i=tree_P[is_leaf_P].tolist(),
            target_nodeids_i=place_P[is_leaf_P].tolist(),
            target_ids_i=[0] * int(is_leaf_P.sum()),
            target_weights_f=trees.value.flatten()[torch.from_numpy(is_leaf_P)].tolist(),
        )
        return graph.op("Squeeze", sum_B1, graph.op("Constant", value_t=torch.tensor([1])))


def grown(dump: Mapping[str, Any], domains: int, places: int) -> Forest:
    """What LightGBM's `dump_model` tells, of a model whose last feature is the domain and its only categorical one. places: N, at
    least 2 leaves - 1."""
    roots = [one["tree_structure"] for one in dump["tree_info"]]
    shape = (len(roots), places)
    column, left = np.zeros(shape, np.int32), np.tile(np.arange(places, dtype=np.int32), (len(roots), 1))
    threshold, value = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
    domain_feature = dump["max_feature_idx"]
    sets: dict[str, int] = {}
    for tree, root in enumerate(roots):
        nodes = [root]
        for place, node in enumerate(nodes):  # `nodes` grows: children stand after their parents, side by side
            if "split_feature" not in node:
                value[tree, place] = node["leaf_value"]
                continue
            left[tree, place] = len(nodes)
            nodes += [node["left_child"], node["right_child"]]
            if node["split_feature"] == domain_feature:
                column[tree, place] = domain_feature + sets.setdefault(node["threshold"], len(sets))
                threshold[tree, place] = 0.5
            else:
                column[tree, place] = node["split_feature"]
                threshold[tree, place] = _at_most(node["threshold"])
    outside = np.ones((domains, len(sets)), np.float32)
    for members, number in sets.items():
        outside[[int(one) for one in members.split("||")], number] = 0.0
    return Forest(column, left, threshold, value, outside)


def _at_most(threshold: float) -> np.float32:
    """The largest float32 not above it: float32 columns compare with it as they do with the double."""
    found = np.float32(threshold)
    return found if float(found) <= threshold else np.nextafter(found, np.float32(-np.inf))
