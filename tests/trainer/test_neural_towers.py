"""One behaviour suite for the retrievers that ADI is compared with, and each network against its paper's equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retrieval_world import ADS, DOMAINS, USERS, World, blocks, recall
from torch import nn

from contracts.schema import FIRST, BlockName
from trainer import export
from trainer.baselines import cross_stitch, mmoe_towers, ple_towers
from trainer.baselines.dnn_single import DNNSingle
from trainer.baselines.shared_bottom_towers import SharedBottomTowers
from trainer.neural_towers import TowerConfig
from trainer.retrievers import RETRIEVERS
from trainer.sampling import Sampler
from trainer.spectral import GraphConfig
from trainer.two_tower import TwoTower

SMALL: dict[str, Any] = {
    "width": 16, "expert_widths": (32, 32), "forward_widths": (32,), "temperature": 0.2, "user_id_dropout": 0.1,
}  # fmt: skip
GRAPH = GraphConfig()
GIVEN_THE_DOMAIN = ["dnn_single", "shared_bottom_towers", "cross_stitch", "mmoe_towers", "ple_towers"]
MODELS = ["dnn", *GIVEN_THE_DOMAIN]
VARIANTS = ["no_graph", "no_popularity", "no_residual", "unnormalised"]


def build(name: str, world: World, seed: int = 0) -> TwoTower:
    model, _, variant = name.partition(":")
    plan = RETRIEVERS[model]
    config = replace(plan.config, **SMALL)
    torch.manual_seed(seed)
    return plan.build(world.schema, plan.variants[variant](config) if variant else config)  # type: ignore[operator, return-value]


def trained(name: str, world: World, epochs: int, seed: int = 0, only: int | None = None) -> TwoTower:
    model = build(name, world, seed)
    model.prepare(world)
    sampler = Sampler(world, batch_size=96, uniform=64, seed=seed)
    optimizer = torch.optim.Adam(model.parameter_groups(1.5e-2))
    for epoch in range(epochs):
        for positives, negatives in sampler.epoch(epoch):
            if only in (None, positives.domain):
                optimizer.zero_grad()
                model.training_loss(positives, negatives).backward()
                optimizer.step()
    return model.eval()


def stirred(name: str, world: World) -> TwoTower:
    """Weights as far from their quiet start as training would bring them."""
    model = build(name, world)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.extend(world)
    return model.eval()


def embeddings(model: TwoTower, world: World, domain: int) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        user = model.user_embedding(*blocks(world.user_block(np.arange(USERS), domain)), domain)
        return user, model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), domain)), domain)


@pytest.mark.parametrize("name", [*GIVEN_THE_DOMAIN, "shared_bottom_towers:no_residual", "shared_bottom_towers:unnormalised"])
def test_who_is_given_the_domain_learns_the_rotating_checkerboard(name: str) -> None:
    """Gates that open over all experts take longer."""
    world = World(withheld=0.0)
    model = trained(name, world, epochs=40 if name in ("mmoe_towers", "ple_towers") else 20)
    assert recall(model, world) > 0.995
    assert recall(model, world, crossed=1) < 0.01


def test_who_is_not_given_it_finds_a_quarter() -> None:
    world = World(withheld=0.0)
    assert recall(trained("dnn", world, epochs=30), world) < 0.4


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str) -> None:
    world = World(history=True)
    first, second, other = (trained(name, world, epochs=1, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_alone_is_a_row_in_a_crowd(name: str) -> None:
    world = World(history=True)
    model = stirred(name, world)
    for embedding, block, count in ((model.user_embedding, world.user_block, USERS), (model.ad_embedding, world.ad_block, ADS)):
        crowd = embedding(*blocks(block(np.arange(count), 2)), 2)
        alone = torch.cat([embedding(*blocks(block(np.array([row]), 2)), 2) for row in range(count)])
        torch.testing.assert_close(alone, crowd, atol=1e-5, rtol=1e-5)
        assert crowd.shape == (count, model.dimension)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    world = World(history=True)
    model = stirred(name, world).train()
    for positives, negatives in Sampler(world, 96, 64).epoch(0):
        model.training_loss(positives, negatives).backward()
    assert [key for key, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", MODELS)
def test_a_domain_with_one_row_and_one_with_none_break_nothing(name: str) -> None:
    world = World(history=True)
    domain = world.columns["domain"]
    kept = (domain < 2) | (np.cumsum(domain == 2) == 1) & (domain == 2)
    world.columns = {key: column[kept] for key, column in world.columns.items()}
    model = trained(name, world, epochs=2)
    for number in range(DOMAINS):
        assert all(torch.isfinite(one).all() for one in embeddings(model, world, number))


@pytest.mark.parametrize("side", ["user", "ad"])
@pytest.mark.parametrize("name", MODELS)
def test_a_towers_file_says_what_the_tower_says_and_holds_no_other_tables(name: str, side: BlockName, tmp_path: Path) -> None:
    world = World(history=True)
    model, path = stirred(name, world), tmp_path / "tower.onnx"
    export.export_tower(model, world.schema, side, 3, path)
    for rows in (1, 24):
        assert export.tower_difference(model, world.schema, side, 3, path, rows, seed=rows) < 1e-5
        assert export.tower_difference(model, world.schema, side, 1, path, rows, seed=rows) > 1e-3
    held = 4 * sum(one.numel() for one in (*model.parameters(), *model.buffers()) if one.dtype == torch.float32)
    assert path.stat().st_size < (0.25 if name == "dnn_single" else 1.0) * held


def test_a_single_domains_retriever_never_met_another_domain() -> None:
    """The same bits whether the other domains are trained between its batches or have no rows at all."""
    world, model = World(history=True), "dnn_single"
    own = World(history=True)
    own.columns = {key: column[world.columns["domain"] == 1] for key, column in world.columns.items()}
    first, second = build(model, world), build(model, own)
    for retriever, tables in ((first, world), (second, own)):
        retriever.prepare(tables)
    optimizers = [torch.optim.Adam(one.parameter_groups(1e-2)) for one in (first, second)]
    for positives, negatives in Sampler(world, 96, 64).epoch(0):
        for retriever, optimizer in zip((first, second), optimizers, strict=True):
            if retriever is first or positives.domain == 1:
                torch.manual_seed(0)
                optimizer.zero_grad()
                retriever.training_loss(positives, negatives).backward()
                optimizer.step()
    first.eval(), second.eval()
    assert all(torch.equal(*pair) for pair in zip(embeddings(first, world, 1), embeddings(second, world, 1), strict=True))
    assert not torch.equal(embeddings(first, world, 0)[1], embeddings(second, world, 0)[1])


def test_a_shared_bottom_is_shared_and_its_tops_are_not() -> None:
    world = World()
    model = build("shared_bottom_towers", world)
    assert isinstance(model, SharedBottomTowers)
    positives, negatives = next(Sampler(world, 96, 64).epoch(0))
    model.training_loss(positives, negatives).backward()
    for tower in (model.user_tower, model.ad_tower):
        for parts in (tower.network.tops, tower.heads):  # type: ignore[union-attr]
            reached = [any(one.grad is not None for one in part.parameters()) for part in parts]  # type: ignore[union-attr]
            assert reached == [domain == positives.domain for domain in range(DOMAINS)]


def test_stitches_mix_each_unit_over_the_towers_and_start_near_their_own() -> None:
    torch.manual_seed(0)
    layer, rows_BI = cross_stitch.StitchedLayer(5, 4, 3), torch.randn(7, 5)
    torch.testing.assert_close(layer.stitch.sum(1), torch.ones(3, 4))
    assert (layer.stitch.diagonal() == 0.9).all()
    nn.init.normal_(layer.stitch)
    alone = [torch.relu(rows_BI @ layer.weight[tower] + layer.bias[tower]) for tower in range(3)]
    for tower in range(3):
        want = sum(layer.stitch[tower, other] * alone[other] for other in range(3))
        torch.testing.assert_close(layer(rows_BI)[tower], want)
        torch.testing.assert_close(layer(rows_BI.expand(3, 7, 5))[tower], want)


def test_mmoe_mixes_its_experts_by_the_domains_gate_over_the_input() -> None:
    torch.manual_seed(0)
    network = mmoe_towers.MMoENetwork(6, 2, mmoe_towers.MMoETowersConfig(**SMALL, experts=3))
    rows_BI = torch.randn(5, 6)
    gate_BK = torch.softmax(rows_BI @ network.gates[1].weight.T, dim=1)  # type: ignore[union-attr, operator]
    mixed = sum(gate_BK[:, k, None] * expert(rows_BI) for k, expert in enumerate(network.experts))
    torch.testing.assert_close(network(rows_BI, 1), network.tops[1](mixed))


def test_ple_extracts_level_by_level_from_its_own_and_the_shared_experts() -> None:
    torch.manual_seed(0)
    config = ple_towers.PLETowersConfig(**SMALL | {"expert_widths": (8, 7, 6)}, shared_experts=2, own_experts=1)
    network, rows_BI = ple_towers.PLENetwork(5, 3, config), torch.randn(4, 5)
    streams = [rows_BI] * 4
    for level in network.levels:
        experts = [[expert(streams[source]) for expert in level.experts[source]] for source in range(4)]  # type: ignore[union-attr, index]
        following = []
        for stream, gate in enumerate(level.gates):  # type: ignore[arg-type, union-attr]
            read = [*experts[stream], *experts[3]] if stream < 3 else [one for source in experts for one in source]
            weight_BK = torch.softmax(streams[stream] @ gate.weight.T, dim=1)
            assert weight_BK.shape[1] == len(read)
            following.append(sum(weight_BK[:, k, None] * one for k, one in enumerate(read)))
        streams = following
    torch.testing.assert_close(network(rows_BI, 2), network.tops[2](streams[2]))


def test_a_domain_alone_smooths_popularity_by_itself() -> None:
    """An ad that only other domains took is to the domain's own retriever what an ad that nobody took is."""
    world = World()
    elsewhere = (world.columns["domain"] != 1) | (world.columns["ad_row"] >= 4)
    nowhere = world.columns["ad_row"] != 0
    world.columns = {key: column[elsewhere & nowhere] for key, column in world.columns.items()}
    for name, apart in (("dnn_single", True), ("dnn", False)):
        model = build(name, world)
        model.prepare(world)
        bias_A = embeddings(model, world, 1)[1][:, -1]
        assert (bias_A[0] == bias_A[1]) == apart
    single = build("dnn_single", world)
    assert isinstance(single, DNNSingle)
    assert single.of(1).popularity.num_embeddings == ADS + FIRST  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("variant", "missing"),
    [
        ("no_graph", GRAPH.pooled_width + GRAPH.own_width + GRAPH.convolved_width + GRAPH.factored_width),
        ("no_popularity", 1),
        ("pooled_graph", GRAPH.own_width),
        ("no_convolution", GRAPH.convolved_width),
        ("no_factors", GRAPH.factored_width),
    ],
)
def test_what_stands_beside_the_towers_can_be_left_out(variant: str, missing: int) -> None:
    world = World(history=True)
    assert build("dnn", world).dimension - build(f"dnn:{variant}", world).dimension == missing


def test_all_have_one_budget() -> None:
    """What is not a network's own is the same for all, ADI among them."""
    common = [one for one in vars(TowerConfig()) if one != "graph"]
    configs = [RETRIEVERS[name].config for name in ("adi", *MODELS)]
    assert all(getattr(one, name) == getattr(configs[0], name) for one in configs for name in common)
    assert all(set(VARIANTS) <= set(RETRIEVERS[name].variants) for name in ("adi", *MODELS))
