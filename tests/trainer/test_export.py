"""Exported graphs: equal bytes for equal weights, no trace of the machine, torch's numbers, rows that do not know each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tables_world as world
import torch

from trainer import export
from trainer.baselines.rates import Rates, RatesConfig
from trainer.baselines.shared_dnn import SharedDNN, SharedDNNConfig
from trainer.dfei import DFEI, DFEIConfig
from trainer.layers import FieldEmbedding, Ranker
from trainer.tables import Tables
from trainer.two_tower import TwoTower


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


class Tower(TwoTower):
    dimension = 4

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tokens = FieldEmbedding(tables.schema, 4, blocks=("user", "ad"))
        self.domain = torch.nn.Parameter(torch.randn(3, 4))

    def user_embedding(self, codes: torch.Tensor, dense: torch.Tensor, domain: int) -> torch.Tensor:
        return self.tokens.block_tokens("user", codes, dense).mean(1) + self.domain[domain]

    def ad_embedding(self, codes: torch.Tensor, dense: torch.Tensor, domain: int) -> torch.Tensor:
        return self.tokens.block_tokens("ad", codes, dense).mean(1)


def ranker(name: str, tables: Tables) -> Ranker:
    torch.manual_seed(0)
    if name == "dfei":
        return DFEI(tables.schema, DFEIConfig(dim=4, hidden=(8, 6), dropout=(0.0, 0.0)))
    if name == "rates":
        return Rates(tables.schema, RatesConfig())
    return SharedDNN(tables.schema, SharedDNNConfig(dim=4, hidden=(8,)))


@pytest.mark.parametrize("name", ["shared_dnn", "dfei", "rates"])
def test_a_ranker_exports_its_numbers_and_nothing_of_the_machine(name: str, tables: Tables, tmp_path: Path) -> None:
    model, path = ranker(name, tables), tmp_path / "ranker.onnx"
    export.export_ranker(model, tables.schema, path)
    written = path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in written and b".py" not in written
    declared = [one.name for one in onnx.load(path).graph.input]
    assert declared == export.ranker_inputs(tables.schema, model)
    assert "ad_dense" in declared and "context_dense" not in declared and ("user_vectors" in declared) == (name == "dfei")
    assert export.ranker_difference(model, tables.schema, path, 2_000, seed=1) < 1e-5
    crowd = export.random_feeds(tables.schema, declared, model, 9, np.random.default_rng(0))
    together = export.run(path, crowd)
    for row in range(9):
        alone = {key: one[row : row + 1] if key.startswith("ad_") else one for key, one in crowd.items()}
        assert export.run(path, alone)[0] == pytest.approx(together[row], abs=1e-6)


def test_a_tower_knows_its_domain_and_reads_one_block(tables: Tables, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tower(tables)
    outputs = []
    for domain in range(2):
        path = tmp_path / f"{domain}.onnx"
        export.export_tower(model, tables.schema, "user", domain, path)
        graph = onnx.load(path).graph
        assert [one.name for one in graph.input] == ["user_codes"] and [one.name for one in graph.output] == ["embedding"]
        assert export.tower_difference(model, tables.schema, "user", domain, path, 1_000, seed=1) < 1e-5
        outputs.append(export.run(path, {"user_codes": tables.user_block(np.arange(5), domain)[0]}))
    assert outputs[1] - outputs[0] == pytest.approx(
        np.tile((model.domain[1] - model.domain[0]).detach().numpy(), (5, 1)), abs=1e-1
    )
    export.export_tower(model, tables.schema, "ad", 0, tmp_path / "ad.onnx")
    assert [one.name for one in onnx.load(tmp_path / "ad.onnx").graph.input] == ["ad_codes", "ad_dense"]


def test_equal_weights_are_equal_bytes_and_others_others(tables: Tables, tmp_path: Path) -> None:
    written = []
    for change in (0.0, 0.0, 1.0):
        model = ranker("dfei", tables)
        with torch.no_grad():
            model.embedding.weight[3] += change
        export.export_ranker(model, tables.schema, tmp_path / "ranker.onnx")
        written.append((tmp_path / "ranker.onnx").read_bytes())
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("dim", [3, 4, 50])
def test_the_largest_weights_lie_where_a_gateway_can_map_them(dim: int, tables: Tables, tmp_path: Path) -> None:
    path = tmp_path / "ranker.onnx"
    torch.manual_seed(0)
    export.export_ranker(SharedDNN(tables.schema, SharedDNNConfig(dim=dim, hidden=(8,))), tables.schema, path)
    largest = max(onnx.load(path).graph.initializer, key=lambda one: len(one.raw_data)).raw_data
    assert path.read_bytes().index(largest) % 64 == 0
