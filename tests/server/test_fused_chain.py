"""Which form a ranker is served in: the first that agrees with the graph; a reason for every other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fused_world as world
import numpy as np
import onnx
import pytest

from contracts.architecture import KEY, Architecture
from contracts.errors import BundleError
from indexer import compiler
from server import onnx_file
from server.fused import chain
from server.fused.chain import choose
from server.inference import Graph


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return world.write(world.ranker("dsfm_dfei"), tmp_path)


def served(graph: Graph, **given: Any) -> tuple[chain.Ranker, chain.Choice]:
    return choose(graph, world.schema(), None, **given)


def rewritten(graph: Graph, change: Any) -> Graph:
    model = onnx.load(graph.path)
    change(model)
    onnx.save(model, graph.path)
    return Graph(graph.path, graph.inputs, "p_click", "cpu")


def noted(graph: Graph, **fields: Any) -> Graph:
    """The same graph under another description."""

    def change(model: onnx.ModelProto) -> None:
        (note,) = [one for one in model.metadata_props if one.key == KEY]
        note.value = json.dumps({**json.loads(note.value), **fields})

    return rewritten(graph, change)


@pytest.mark.parametrize("name", ["dsfm", "dsfm_dfei", "dfei", "shared_dnn", "pepnet"])
def test_known_architectures_are_fused(name: str, tmp_path: Path) -> None:
    graph = world.write(world.ranker(name), tmp_path)
    ranker, choice = served(graph)
    assert choice.form == "fused" and choice.refused == {} and choice.difference <= chain.TOLERANCE
    assert ranker is not graph


@pytest.mark.parametrize("name", ["mmoe", "star", "dsfm:softmax_attn", "dsfm:unit_offset", "dsfm:base_only", "separate_dnn"])
def test_others_are_served_as_their_graph_which_reads_one_user_row(name: str, tmp_path: Path) -> None:
    graph = world.write(world.ranker(name), tmp_path)
    ranker, choice = served(graph)
    assert ranker is graph and choice.form == "graph"
    assert choice.refused == {"fused": "the ranker's file names no architecture"}
    rows = {one: value.shape[0] for one, value in world.feeds(world.ranker(name), 9, 0).items()}
    assert rows["user_codes"] == rows["context_codes"] == 1 and rows["ad_codes"] == 9


def test_without_numba_the_graph_serves(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(directory: Path | None) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(compiler, "configure", missing)
    ranker, choice = served(graph)
    assert ranker is graph and "Numba is not there" in choice.reason


@pytest.mark.parametrize("error", [1e-4, np.nan])
def test_a_form_that_disagrees_is_passed_over(graph: Graph, error: float) -> None:
    class Wrong:
        def run(self, feeds: Any) -> Any:
            return graph.run(feeds) + np.float32(error)

    forms = {"wrong": lambda path, cache: Wrong(), **chain.FORMS}
    _, choice = served(graph, forms=forms)
    assert choice.form == "fused" and "differs" in choice.refused["wrong"]
    ranker, choice = served(graph, forms={"wrong": forms["wrong"]})
    assert ranker is graph and "differs" in choice.reason


def test_a_form_that_raises_is_passed_over(graph: Graph, caplog: pytest.LogCaptureFixture) -> None:
    def broken(path: Path, cache: Path | None) -> chain.Ranker:
        raise OSError("no space left for the compiler")

    ranker, choice = served(graph, forms={"broken": broken})
    assert ranker is graph and "no space left" in choice.reason
    assert "served as a graph" in caplog.text


def test_another_device_keeps_the_graph(graph: Graph) -> None:
    ranker, choice = served(graph, device="cuda")
    assert ranker is graph and "cuda" in choice.reason


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"kind": "transformer"}, "field 'kind'"),
        ({"surprise": 1}, "field 'surprise'"),
        ({"sensitive": [99]}, "sensitive tokens"),
        ({"domains": 4}, "domain_weight"),
        ({"kind": "shared_dnn"}, "network.linears.0"),
        ({"sensitive": [1, 2, 3, 4]}, "differs from the graph"),
        ({"hidden_retrievers": False}, "differs from the graph"),
        ({"reads": ["v_ud", "z"]}, "differs from the graph"),
    ],
)
def test_a_description_that_is_not_the_graphs_is_found_out(graph: Graph, fields: dict[str, Any], why: str) -> None:
    _, choice = served(noted(graph, **fields))
    assert choice.form == "graph" and why in choice.reason, choice.reason


def test_tables_that_are_not_where_they_are_said_to_be_are_found_out(graph: Graph) -> None:
    notes, _ = onnx_file.read(graph.path)
    blocks = Architecture.parse(notes[KEY]).model_dump()["blocks"]
    blocks["ad"]["offsets"][1] -= 1
    assert "differs from the graph" in served(noted(graph, blocks=blocks))[1].reason
    blocks["ad"]["offsets"][1] += 10_000
    assert "beyond" in served(noted(graph, blocks=blocks))[1].reason
    blocks["ad"]["lengths"][0] = 2
    assert "codes" in served(noted(graph, blocks=blocks))[1].reason


def test_a_weight_under_another_name_is_found_out(graph: Graph) -> None:
    def exchange(model: onnx.ModelProto) -> None:
        """Queries and keys change names, in the file and in the nodes that read them: the graph computes as before."""
        names = [f"model.memory.embedding_retriever.{one}.weight" for one in ("query", "key")]
        other = dict(zip(names, reversed(names), strict=True))
        for part in model.graph.initializer:
            part.name = other.get(part.name, part.name)
        for node in model.graph.node:
            node.input[:] = [other.get(one, one) for one in node.input]

    assert "differs from the graph" in served(rewritten(graph, exchange))[1].reason


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a directory")
    compiler.configure(tmp_path / "file")
    assert "compiled at every start" in caplog.text


def test_a_cache_that_others_may_write_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = tmp_path / "kernels"
    shared.mkdir()
    shared.chmod(0o777)
    kept = list(compiler._kept)
    compiler.configure(shared)
    assert "not this user's alone" in caplog.text and compiler._kept == kept


def test_the_file_is_read_as_the_onnx_package_reads_it(graph: Graph, tmp_path: Path) -> None:
    notes, arrays = onnx_file.read(graph.path)
    model = onnx.load(graph.path)
    assert notes == {one.key: one.value for one in model.metadata_props}
    floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    assert arrays.keys() == {one.name for one in floats}
    for one in floats:
        assert np.array_equal(arrays[one.name], onnx.numpy_helper.to_array(one))
    short = tmp_path / "short.onnx"
    short.write_bytes(graph.path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"short\.onnx"):
        onnx_file.read(short)
    packed = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [packed])), short)
    assert onnx_file.read(short)[1]["t"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
