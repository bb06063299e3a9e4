"""A domain directory as the trainer's export leaves it, with an ONNX tower whose embeddings numpy can compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contracts.files import save_array
from indexer.index import Matrix

FIELDS, VALUES, WIDTH = 2, 50, 16


@dataclass(frozen=True)
class Domain:
    """embedding of ad r = table[codes[r]].sum(fields) + dense[r] @ weight."""

    directory: Path
    embeddings: Matrix
    queries: Matrix


def write_tower(path: Path, table: Matrix, weight: Matrix, with_dense: bool = True) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ad_codes"], ["tokens"]),
        helper.make_node("ReduceSum", ["tokens", "axis"], ["pooled"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("ad_codes", TensorProto.INT32, ["batch", FIELDS])]
    if with_dense:
        nodes += [
            helper.make_node("MatMul", ["ad_dense", "weight"], ["shift"]),
            helper.make_node("Add", ["pooled", "shift"], ["embedding"]),
        ]
        inputs.append(helper.make_tensor_value_info("ad_dense", TensorProto.FLOAT, ["batch", len(weight)]))
    else:
        nodes.append(helper.make_node("Identity", ["pooled"], ["embedding"]))
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")]
    if with_dense:
        constants.append(numpy_helper.from_array(weight, "weight"))
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "tower", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, str(path))


def make_domain(directory: Path, ads: int, with_dense: bool = True, seed: int = 0) -> Domain:
    random = np.random.default_rng(seed)
    table = random.standard_normal((VALUES, WIDTH)).astype(np.float32)
    weight = random.standard_normal((3, WIDTH)).astype(np.float32)
    codes = random.integers(0, VALUES, (ads, FIELDS)).astype(np.int32)
    dense = random.standard_normal((ads, 3 if with_dense else 0)).astype(np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    write_tower(directory / "ad_tower.onnx", table, weight, with_dense)
    save_array(directory / "ads" / "codes.npy", codes)
    save_array(directory / "ads" / "dense.npy", dense)
    embeddings = table[codes].sum(axis=1) + (dense @ weight if with_dense else 0)
    queries = random.standard_normal((60, WIDTH)).astype(np.float32)
    return Domain(directory, embeddings.astype(np.float32), queries)
