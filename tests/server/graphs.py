"""Small ONNX graphs with known answers, built without any training library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_TYPES = {np.dtype(np.int32): TensorProto.INT32, np.dtype(np.int64): TensorProto.INT64, np.dtype(np.float32): TensorProto.FLOAT}


class Net:
    """Collects nodes; every method returns the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []

    def input(self, name: str, dtype: type, shape: list[str | int]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[np.dtype(dtype)], shape))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def column(self, codes: str, at: int) -> str:
        return self.op("Gather", codes, self.constant(np.array(at, dtype=np.int64)), axis=1)

    def total(self, value: str, *axes: int) -> str:
        return self.op("ReduceSum", value, self.constant(np.array(axes)), keepdims=0)

    def rows(self, table: np.ndarray, at: str) -> str:
        return self.op("Gather", self.constant(table), at, axis=0)

    def save(self, path: Path, output: str, shape: list[str | int]) -> None:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, path.stem, self._inputs, [result], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(model, path)


def user_tower(path: Path, table_NE: np.ndarray) -> None:
    net = Net()
    codes = net.input("user_codes", np.int32, ["B", "Iu"])
    net.op("Gather", net.constant(table_NE), net.column(codes, 0), axis=0, out="embedding")
    net.save(path, "embedding", ["B", table_NE.shape[1]])


def ad_tower(path: Path, table_NE: np.ndarray, column: int = 0) -> None:
    net = Net()
    codes = net.input("ad_codes", np.int32, ["B", "Ia"])
    net.op("Gather", net.constant(table_NE), net.column(codes, column), axis=0, out="embedding")
    net.save(path, "embedding", ["B", table_NE.shape[1]])


def ranker(
    path: Path, user_DNE: np.ndarray, ad_NE: np.ndarray, hour_N: np.ndarray, bias: float, vectors: bool, ad_column: int = 0
) -> list[str]:
    """p = sigmoid(4 <user, ad> + hour + temperature + bias + sum of the domain's user vector). Returns its input names. What
    candidates share has S rows: one, or one a candidate."""
    net = Net()
    n_domains, n_users, _ = user_DNE.shape
    user = net.column(net.input("user_codes", np.int32, ["S", "Iu"]), 0)
    hour = net.column(net.input("context_codes", np.int32, ["S", "Ic"]), 0)
    dense = net.input("context_dense", np.float32, ["S", "Nc"])
    ad = net.column(net.input("ad_codes", np.int32, ["C", "Ia"]), ad_column)
    domain = net.input("domain", np.int64, [1])
    inputs = ["user_codes", "context_codes", "context_dense", "ad_codes", "domain"]
    key = net.op("Add", net.op("Mul", domain, net.constant(np.array([n_users]))), net.op("Cast", user, to=TensorProto.INT64))
    wants_SE = net.rows(user_DNE.reshape(n_domains * n_users, -1), key)
    match_C = net.total(net.op("Mul", net.rows(ad_NE * 4, ad), wants_SE), 1)
    logit = net.op("Add", match_C, net.rows(hour_N.astype(np.float32), hour))
    logit = net.op("Add", logit, net.total(dense, 1))
    logit = net.op("Add", logit, net.constant(np.float32(bias)))
    if vectors:
        own = net.op("Gather", net.input("user_vectors", np.float32, ["S", "D", "K"]), domain, axis=1)
        logit = net.op("Add", logit, net.total(own, 1, 2))
        inputs.append("user_vectors")
    net.op("Sigmoid", logit, out="p_click")
    net.save(path, "p_click", ["C"])
    return inputs


def encoder(path: Path, hour_NK: np.ndarray, ad_NK: np.ndarray) -> None:
    """u_d(x) = hour's vector + ad's vector."""
    net = Net()
    net.input("user_codes", np.int32, [1, "Iu"])
    hour = net.column(net.input("context_codes", np.int32, [1, "Ic"]), 0)
    net.input("context_dense", np.float32, [1, "Nc"])
    ad = net.column(net.input("ad_codes", np.int32, ["C", "Ia"]), 0)
    net.input("domain", np.int64, [1])
    net.op("Add", net.rows(ad_NK, ad), net.rows(hour_NK, hour), out="u")
    net.save(path, "u", ["C", hour_NK.shape[1]])
