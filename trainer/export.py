"""Torch -> ONNX: towers per domain and the ranker, byte for byte the same for the same weights, agreement measured.

Graphs carry weights and operators only: names of source files, stack traces and versions are stripped, so that equal
weights are equal bytes on any machine.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts import architecture
from contracts.files import write_bytes
from contracts.schema import BlockName, FeatureSchema
from trainer.architecture import architecture_of
from trainer.layers import Inputs, Ranker
from trainer.two_tower import TwoTower

Arrays = dict[str, NDArray[Any]]

OPSET = 18
_OUTPUT = "mdrec_output"
_EXAMPLE_ROWS = 3  # any number but 0 and 1, which the exporter would take for constants
SHARED_ROWS = "shared_rows"  # the size of that axis in a ranker's graph
_RAW_DATA = b"\x4a"  # how a tensor's bytes begin in a file: field 9, then their number
_ALIGNMENT = 64
_SHARED: tuple[BlockName, ...] = ("user", "context")  # one row in a request, whatever the number of candidates


def block_inputs(schema: FeatureSchema, name: BlockName) -> list[str]:
    """Names of a block's graph inputs: only those that have columns."""
    block = schema.block(name)
    widths = {f"{name}_codes": block.code_width, f"{name}_dense": block.dense_width}
    return [one for one, width in widths.items() if width]


def ranker_inputs(schema: FeatureSchema, model: Ranker, vectors: bool = True) -> list[str]:
    names = [one for name in (*_SHARED, "ad") for one in block_inputs(schema, name)]
    return [*names, "domain", *(["user_vectors"] if vectors and model.user_vectors else [])]


def export_tower(model: TwoTower, schema: FeatureSchema, side: BlockName, domain: int, path: Path) -> None:
    """One domain's user or ad tower: (B, I) codes and (B, N) dense -> `embedding` (B, E) float32."""
    names = block_inputs(schema, side)
    tower = _Tower(model.narrowed(side, domain), schema, side, domain)
    _export(tower, _example(schema, names, model), names, "embedding", path)


def export_ranker(model: Ranker, schema: FeatureSchema, path: Path) -> None:
    """One user and context, C ads -> `p_click` (C,) float32."""
    names = ranker_inputs(schema, model)
    found = architecture_of(model)
    notes = {} if found is None else {architecture.KEY: found.model_dump_json()}
    _export(_Ranker(model, schema), _example(schema, names, model), block_inputs(schema, "ad"), "p_click", path, notes)


def export_user_domain_encoder(model: Ranker, schema: FeatureSchema, path: Path) -> None:
    """u_d(x) of C rows of one user in one domain -> `u` (C, K) float32: what feedback folds into the user's row."""
    names = ranker_inputs(schema, model, vectors=False)
    _export(_Encoder(model, schema), _example(schema, names, model), block_inputs(schema, "ad"), "u", path)


def random_feeds(schema: FeatureSchema, names: Sequence[str], model: nn.Module, rows: int, rng: np.random.Generator) -> Arrays:
    """Valid random inputs: any code of each field's table, standard normal dense values and vectors. Shared blocks have one
    row when the ad block is among the inputs, else `rows`."""
    alone = not any(one.startswith("ad_") for one in names)
    feeds: Arrays = {}
    for name in names:
        block, _, matrix = name.rpartition("_")
        count = 1 if block in _SHARED and not alone else rows
        if name == "domain":
            feeds[name] = rng.integers(0, len(schema.domains), 1)
        elif name == "user_vectors":
            vectors = getattr(model, "user_vectors")  # noqa: B009  # a Ranker's, which a tower has not
            feeds[name] = rng.standard_normal((1, len(schema.domains), vectors.dimension), dtype=np.float32)
        elif matrix == "dense":
            feeds[name] = rng.standard_normal((count, schema.block(block).dense_width), dtype=np.float32)  # type: ignore[arg-type]
        else:
            feeds[name] = _random_codes(schema, block, count, rng)  # type: ignore[arg-type]
    return feeds


def tower_difference(
    model: TwoTower, schema: FeatureSchema, side: BlockName, domain: int, path: Path, rows: int, seed: int
) -> float:
    """Largest absolute difference between torch and ONNX Runtime over `rows` random rows."""
    feeds = random_feeds(schema, block_inputs(schema, side), model, rows, np.random.default_rng(seed))
    return _difference(_Tower(model, schema, side, domain), feeds, path)


def ranker_difference(model: Ranker, schema: FeatureSchema, path: Path, rows: int, seed: int, requests: int = 20) -> float:
    """As tower_difference, for p_click: `rows` candidates in all, divided among random requests."""
    rng = np.random.default_rng(seed)
    names = ranker_inputs(schema, model)
    feeds = (random_feeds(schema, names, model, -(-rows // requests), rng) for _ in range(requests))
    return max(_difference(_Ranker(model, schema), one, path) for one in feeds)


def run(path: Path, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The graph's single output, on one CPU thread."""
    output: NDArray[np.float32] = _session(path).run(None, dict(feeds))[0]
    return output


class _Tower(nn.Module):
    """One side in one domain, inputs by position as `names` lists them."""

    def __init__(self, model: TwoTower, schema: FeatureSchema, side: BlockName, domain: int) -> None:
        super().__init__()
        self.model = model
        self.names = block_inputs(schema, side)
        self._side, self._domain = side, domain

    def forward(self, *given: Tensor) -> Tensor:
        codes, dense = _filled(self._side, dict(zip(self.names, given, strict=True)))
        tower = self.model.user_embedding if self._side == "user" else self.model.ad_embedding
        return tower(codes, dense, self._domain)


class _Ranker(nn.Module):
    def __init__(self, model: Ranker, schema: FeatureSchema) -> None:
        super().__init__()
        self.model = model
        self.names = ranker_inputs(schema, model)

    def forward(self, *given: Tensor) -> Tensor:
        return torch.sigmoid(self.model.calibrated(_inputs(self.names, given)))


class _Encoder(nn.Module):
    def __init__(self, model: Ranker, schema: FeatureSchema) -> None:
        super().__init__()
        self.model = model
        self.names = ranker_inputs(schema, model, vectors=False)

    def forward(self, *given: Tensor) -> Tensor:
        encoded: Tensor = self.model.encode(_inputs(self.names, given))  # type: ignore[operator]
        return encoded


def _inputs(names: Sequence[str], given: Sequence[Tensor]) -> Inputs:
    named = dict(zip(names, given, strict=True))
    user, context, ad = (_filled(name, named) for name in ("user", "context", "ad"))
    return Inputs(*user, *context, *ad, domain=named["domain"], user_vectors=named.get("user_vectors"))


def _filled(name: str, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A block's codes and dense; one without columns has width 0 and as many rows as the other, or one."""
    codes, dense = given.get(f"{name}_codes"), given.get(f"{name}_dense")
    rows = next((one.shape[0] for one in (codes, dense) if one is not None), 1)
    if codes is None:
        codes = torch.zeros((rows, 0), dtype=torch.int32)
    if dense is None:
        dense = torch.zeros((rows, 0), dtype=torch.float32)
    return codes, dense


def _example(schema: FeatureSchema, names: Sequence[str], model: nn.Module) -> Arrays:
    return random_feeds(schema, names, model, _EXAMPLE_ROWS, np.random.default_rng(0))


def _export(
    module: _Tower | _Ranker | _Encoder,
    feeds: Arrays,
    dynamic: Sequence[str],
    output: str,
    path: Path,
    notes: Mapping[str, str] | None = None,
) -> None:
    """dynamic: the inputs whose first axis is the number of rows; notes: metadata of the file.

    Constants are not folded: weights then stand in the file under the model's names and as the model holds them, and ONNX
    Runtime folds them when it loads the file.

    By tracing: a tower takes .4 s instead of the 9 to 15 s of the graph-capturing exporter (a night of 15 domains exports 30),
    and what it gives agrees with torch to the same 1e-7. Shapes are read from the inputs, nothing branches on values, and the
    agreement of every graph is measured before it is published.
    """
    if not dynamic:
        raise ValueError(f"{path.name}: no input has rows to count")
    example = tuple(torch.from_numpy(feeds[name]) for name in module.names)
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about constants that are meant to be constants, and about the exporter's age
        torch.onnx.export(
            module.cpu().eval(), example, buffer, input_names=module.names, output_names=[_OUTPUT],
            dynamic_axes={name: {0: "rows"} for name in dynamic}, opset_version=OPSET, dynamo=False, autograd_inlining=False,
            do_constant_folding=False,
        )  # fmt: skip
    model = _stripped(onnx.load_from_string(buffer.getvalue()))
    _rename(model.graph, {output: f"{output}_inside", _OUTPUT: output})
    _declare(model.graph, module.names, feeds, dynamic)
    onnx.helper.set_model_props(model, dict(notes or {}))
    write_bytes(path, _aligned(model))


def _aligned(model: onnx.ModelProto) -> bytes:
    """The file, its largest weights at a multiple of 64 bytes: gateways map these (server/onnx_file.py). The model's
    description, of any length up to 64, stands before its graph."""
    model.doc_string = " "
    data: bytes = model.SerializeToString(deterministic=True)
    largest = max(model.graph.initializer, key=lambda one: len(one.raw_data), default=None)
    if largest is None:
        return data
    size = len(largest.raw_data)
    name = data.index(largest.name.encode() + _RAW_DATA)
    start = (
        name + len(largest.name.encode()) + len(_RAW_DATA) + -(-max(size.bit_length(), 1) // 7)
    )  # seven bits of a length a byte
    model.doc_string = " " * (1 + -start % _ALIGNMENT)
    return bytes(model.SerializeToString(deterministic=True))


def _declare(graph: onnx.GraphProto, names: Sequence[str], feeds: Arrays, dynamic: Sequence[str]) -> None:
    """All inputs, in order: tracing leaves out the ones a model does not read (popularity reads no user). What all candidates
    share has one row, or one a candidate: candidates of several requests in a run."""
    declared = {one.name: one for one in graph.input}
    for name in names:
        first = "rows" if name in dynamic else feeds[name].shape[0] if name == "domain" else SHARED_ROWS
        if name not in declared:
            kind = onnx.helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
            declared[name] = onnx.helper.make_tensor_value_info(name, kind, [first, *feeds[name].shape[1:]])
        elif first == SHARED_ROWS:
            declared[name].type.tensor_type.shape.dim[0].dim_param = first
    ordered = [onnx.ValueInfoProto.FromString(declared[name].SerializeToString()) for name in names]
    graph.ClearField("input")
    graph.input.extend(ordered)


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what names the machine or the moment it was made on."""
    model.ClearField("metadata_props")
    model.ClearField("producer_version")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("metadata_props")
        for node in function.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    return model


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """The exporter names values after operators, so an output called `embedding` meets a value of that name."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(one, one) for one in values]
    for part in (*graph.initializer, *graph.output):
        part.name = names.get(part.name, part.name)


def _random_codes(schema: FeatureSchema, name: BlockName, rows: int, rng: np.random.Generator) -> NDArray[np.int32]:
    block = schema.block(name)
    codes = np.zeros((rows, block.code_width), dtype=np.int32)
    for field in block.fields:
        if field.matrix == "codes":
            codes[:, field.columns] = rng.integers(0, field.cardinality, (rows, field.width))
    return codes


def _difference(module: _Tower | _Ranker | _Encoder, feeds: Arrays, path: Path) -> float:
    with torch.no_grad():
        expected = module.cpu().eval()(*(torch.from_numpy(feeds[name]) for name in module.names)).numpy()
    return float(np.max(np.abs(run(path, feeds) - expected), initial=0.0))


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
