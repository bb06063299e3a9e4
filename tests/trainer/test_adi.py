"""Every variant of ADI learns a world that only domain-aware towers can know, the same for a seed, and exports as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from retrieval_world import ADS, DOMAINS, USERS, World, blocks, recall
from torch import nn

from contracts.schema import BlockName
from trainer import export
from trainer.adi import ADI, VARIANTS, ADIConfig
from trainer.adi_layers import ADAPTATIONS, DomainBatchNorm, FusedExperts, NetworkMul
from trainer.sampling import Sampler
from trainer.spectral import GraphConfig

# Towers say as much as the graph: of the checkerboard's withheld pairs it knows nothing, and nobody settles its strength here.
SMALL = ADIConfig(
    width=16,
    expert_widths=(32, 32),
    forward_widths=(32,),
    temperature=0.2,
    temperature_beside_graph=0.5,
    graph=GraphConfig(own_weight=0.3),
    user_id_dropout=0.1,
)


def trained(world: World, config: ADIConfig, epochs: int, seed: int = 0) -> ADI:
    torch.manual_seed(seed)
    model = ADI(world.schema, config)
    model.prepare(world)
    sampler = Sampler(world, batch_size=96, uniform=64, seed=seed)
    optimizer = torch.optim.Adam(model.parameter_groups(2e-2), fused=True)
    for epoch in range(epochs):
        for positives, negatives in sampler.epoch(epoch):
            optimizer.zero_grad()
            model.training_loss(positives, negatives).backward()
            optimizer.step()
    return model.eval()


def untrained(history: bool = True, **changes: object) -> tuple[World, ADI]:
    """Weights and running statistics as far from their start as training would bring them."""
    world = World(history)
    torch.manual_seed(1)
    model = ADI(world.schema, replace(SMALL, **changes))  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    model.extend(world)
    return world, model.eval()


def distinct() -> dict[str, ADIConfig]:
    """Every different model among the default and its variants, under the first name it has."""
    configs: dict[ADIConfig, str] = {SMALL: "default"}
    for name, change in VARIANTS.items():
        if name != "no_self_training":  # no other model, only other batches
            configs.setdefault(change(SMALL), name)
    return {name: config for config, name in configs.items()}


# Without histories there is no graph: what changes the graph alone learns here by the default's numbers, bit for bit.
LEARNING = {name: config for name, config in distinct().items() if config.graph == SMALL.graph}


@pytest.mark.parametrize("config", LEARNING.values(), ids=LEARNING)
def test_every_variant_learns_the_rotating_checkerboard(config: ADIConfig) -> None:
    world = World(withheld=0.0)
    model = trained(world, config, epochs=15)
    assert recall(model, world) > 0.995
    assert recall(model, world, crossed=1) < 0.01


def test_pairs_never_seen_are_found_through_the_pattern() -> None:
    world = World(history=True, withheld=0.1)
    assert recall(trained(world, SMALL, epochs=25), world) > 0.97


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    world = World(history=True)
    first, second, other = (trained(world, SMALL, epochs=2, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_the_model_it_is_named_after(variant: str) -> None:
    opposite = {"se": "lt", "concat": "sum", "experts_1": "experts_3", "normalised": "unnormalised", "unnormalised": "normalised"}
    base = VARIANTS[opposite[variant]](SMALL) if variant in opposite else SMALL
    assert VARIANTS[variant](base) != base


@pytest.mark.parametrize("config", distinct().values(), ids=distinct())
def test_a_row_alone_is_a_row_in_a_crowd(config: ADIConfig) -> None:
    world, model = untrained(**vars(config))
    for embedding, block, count in ((model.user_embedding, world.user_block, USERS), (model.ad_embedding, world.ad_block, ADS)):
        crowd = embedding(*blocks(block(np.arange(count), 2)), 2)
        alone = torch.cat([embedding(*blocks(block(np.array([row]), 2)), 2) for row in range(count)])
        torch.testing.assert_close(alone, crowd, atol=1e-5, rtol=1e-5)
        assert crowd.shape == (count, model.dimension)


@pytest.mark.parametrize(
    ("variant", "side", "domain"),
    [("default", "user", 0), ("default", "ad", 3), ("network_mul", "user", 3)],
)
def test_a_towers_graph_is_that_of_its_domain(variant: str, side: BlockName, domain: int, tmp_path: Path) -> None:
    world, model = untrained(**vars(VARIANTS[variant](SMALL)) if variant in VARIANTS else {})
    path = tmp_path / "tower.onnx"
    export.export_tower(model, world.schema, side, domain, path)
    for rows in (1, 24):
        assert export.tower_difference(model, world.schema, side, domain, path, rows, seed=rows) < 1e-5
        assert export.tower_difference(model, world.schema, side, 1, path, rows, seed=rows) > 1e-3


def test_batch_norm_keeps_each_domains_own_running_statistics() -> None:
    norm = DomainBatchNorm(3, domains=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        norm(torch.randn(64, 3, generator=generator) * 2.0 + 5.0, 0)
        norm(torch.randn(64, 3, generator=generator) - 5.0, 1)
    norm.eval()
    torch.testing.assert_close(norm(torch.full((1, 3), 5.0), 0), torch.zeros(1, 3), atol=0.2, rtol=0)
    torch.testing.assert_close(norm(torch.full((1, 3), 7.0), 0), torch.ones(1, 3), atol=0.2, rtol=0)
    torch.testing.assert_close(norm(torch.full((1, 3), -5.0), 1), torch.zeros(1, 3), atol=0.2, rtol=0)
    assert norm(torch.full((1, 3), -5.0), 0).max() < -4.0


def test_shared_batch_norm_mixes_the_domains() -> None:
    norm = DomainBatchNorm(3, domains=2, shared=True)
    for _ in range(100):
        norm(torch.randn(64, 3) + 5.0, 0)
        norm(torch.randn(64, 3) - 5.0, 1)
    norm.eval()
    rows = torch.full((1, 3), 5.0)
    assert torch.equal(norm(rows, 0), norm(rows, 1))


def test_one_row_can_be_trained_on() -> None:
    norm = DomainBatchNorm(3, domains=1)
    assert torch.isfinite(norm(torch.randn(1, 3), 0)).all()


@pytest.mark.parametrize("kind", ["lt", "se", "none"])
def test_adaptation_starts_near_the_shared_embedding(kind: str) -> None:
    torch.manual_seed(0)
    tokens_BFE = torch.randn(5, 4, 8)
    adapted = ADAPTATIONS[kind](4, 8, 2)(tokens_BFE * 1e-6, 1)  # type: ignore[index]
    torch.testing.assert_close(adapted, tokens_BFE * 1e-6, rtol=1.0, atol=1e-12)


def test_adaptations_follow_their_equations() -> None:
    _, model = untrained(adaptation="se")
    tokens_BFE, tower = torch.randn(5, 3, 16), model.user_tower
    squeeze, excite = tower.adaptation.squeeze[1], tower.adaptation.excite[1]
    alpha_BF = excite(torch.relu(squeeze(tokens_BFE.mean(dim=2))))
    torch.testing.assert_close(tower.adaptation(tokens_BFE, 1), tokens_BFE * alpha_BF[:, :, None])
    lt = untrained(adaptation="lt")[1].user_tower.adaptation
    torch.testing.assert_close(lt(tokens_BFE, 1), tokens_BFE * lt.scale[1] + lt.shift[1])
    va = untrained(adaptation="va")[1].user_tower.adaptation
    weight_BF = torch.sigmoid(torch.einsum("bfe,fe->bf", tokens_BFE, va.query[1]))
    torch.testing.assert_close(va(tokens_BFE, 1), tokens_BFE * weight_BF[:, :, None])


def test_fusions_follow_their_equations() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 6)
    for fusion in ("concat", "sum"):
        experts = FusedExperts((6, 4), 2, 3, fusion, shared_norm=False).eval()  # type: ignore[arg-type]
        row = experts.domain_rows[1]
        mix = torch.softmax(experts.gate(row), dim=0)
        shared = sum(mix[k] * expert(rows, 1) for k, expert in enumerate(experts.shared)) * torch.sigmoid(
            experts.gate_shared(row)
        )
        specific = experts.specific[1](rows, 1) * torch.sigmoid(experts.gate_specific(row))
        want = torch.cat([specific, specific * shared, shared], dim=1) if fusion == "concat" else specific + shared
        torch.testing.assert_close(experts(rows, 1), want)
    product = NetworkMul((6, 4), 2, 1, shared_norm=False).eval()
    nn.init.normal_(product.specific[1][0].weight)
    shared_layer, own = product.shared[0][0], product.specific[1][0]
    hidden = rows @ (shared_layer.weight * own.weight).T + shared_layer.bias + own.bias
    torch.testing.assert_close(product(rows, 1), torch.relu(product.norms[0](hidden, 1)))


def test_normalised_score_is_the_cosine_over_the_temperature_plus_the_bias() -> None:
    world, model = untrained(normalised=True, temperature=0.1, graph=None)
    user = model.user_embedding(*blocks(world.user_block(np.arange(4), 1)), 1)
    ad = model.ad_embedding(*blocks(world.ad_block(np.arange(4), 1)), 1)
    torch.testing.assert_close(user[:, :-1].norm(dim=1), torch.full((4,), 10.0))
    torch.testing.assert_close(ad[:, :-1].norm(dim=1), torch.ones(4))
    assert torch.equal(user[:, -1], torch.ones(4))


def test_a_domains_batch_leaves_other_domains_parameters_alone() -> None:
    world = World()
    model = ADI(world.schema, SMALL)
    seen = set()
    for positives, negatives in Sampler(world, 64, 64).epoch(0):
        model.zero_grad(set_to_none=True)
        model.training_loss(positives, negatives).backward()
        for tower in (model.user_tower, model.ad_tower):
            for parts in (tower.heads, tower.network.forward_nets, tower.network.experts.specific):
                reached = [any(one.grad is not None for one in part.parameters()) for part in parts]
                assert reached == [domain == positives.domain for domain in range(DOMAINS)]
        seen.add(positives.domain)
    assert seen == set(range(DOMAINS))


def test_the_popularity_dimension_starts_at_smoothed_log_counts_of_the_domain() -> None:
    world = World(withheld=0.5)
    model = ADI(world.schema, SMALL)
    model.prepare(world)
    taken = np.column_stack([world.columns["domain"], world.columns["ad_row"]])
    count_DA = np.zeros((DOMAINS, ADS))
    np.add.at(count_DA, tuple(taken.T), 1.0)
    pooled_A = count_DA.sum(axis=0)
    for domain in range(DOMAINS):
        bias = model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), domain)), domain)[:, -1].detach().numpy()
        for ad in range(ADS):
            assert bias[ad] > np.log(max(count_DA[domain, ad], 1e-9))
            assert bias[ad] < np.log(count_DA[domain, ad] + 0.1 * (ADS + 2) * (pooled_A[ad] + 1) / pooled_A.sum())
    unseen = model.ad_embedding(torch.tensor([[0], [1]], dtype=torch.int32), torch.zeros(2, 0), 1)[:, -1]
    known = model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), 1)), 1)[:, -1]
    assert unseen.max() <= known.min()
