"""What the graph says: eigenspaces as they are defined, users known by their history alone, strangers and tiny graphs at rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retrieval_world import ADS, USERS, World, blocks
from scipy import sparse
from scipy.sparse.linalg import ArpackError

from contracts.schema import FIRST, PAD, UNKNOWN
from trainer import export, spectral
from trainer.adi import ADI, ADIConfig
from trainer.convolution import convolved_rows
from trainer.factors import factored_rows
from trainer.graph import interactions
from trainer.spectral import GraphConfig, GraphPart, ad_rows, history_columns, settle

SMALL = GraphConfig(pooled_width=6, own_width=4, convolved_width=0, factored_width=0)
CONVOLVED = GraphConfig(pooled_width=6, own_width=4, convolved_width=5, factored_width=0)
FACTORED = GraphConfig(pooled_width=6, own_width=4, convolved_width=0, factored_width=7)


def random_graph(users: int = 60, ads: int = 40, seed: int = 0) -> sparse.csr_array:
    taken = np.random.default_rng(seed).random((users, ads)) < 0.15
    taken[:, 5] = False  # an ad nobody took
    return sparse.csr_array(taken.astype(np.float32))


def fitted(config: GraphConfig = SMALL, withheld: float = 0.3) -> tuple[World, GraphPart]:
    world = World(history=True, withheld=withheld)
    part = GraphPart(world.schema, config)
    part.fit(world)
    return world, part


@pytest.mark.parametrize(("width", "whole_ads"), [(6, 100), (30, 100), (6, 0), (30, 0)])  # dense, dense, Lanczos, dense
def test_users_summed_from_their_ads_stand_where_the_decomposition_has_them(
    width: int, whole_ads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "_WHOLE_ADS", whole_ads)
    taken_UA = random_graph()
    of_user, of_ad = (np.maximum(taken_UA.sum(axis=axis), 1.0) ** -0.4 for axis in (1, 0))
    scaled = of_user[:, None] * taken_UA.toarray() * of_ad
    left, spectrum, right = np.linalg.svd(scaled, full_matrices=False)
    rows = ad_rows(taken_UA, width)
    users = of_user[:, None] * (taken_UA @ rows)
    want_UA = left[:, :width] * spectrum[:width] ** 5 @ right[:width]
    got_UA = users @ (rows / of_ad[:, None]).T
    np.testing.assert_allclose(got_UA / np.linalg.norm(got_UA), want_UA / np.linalg.norm(want_UA), atol=1e-4)


def test_rows_are_the_same_for_the_same_graph_and_zero_for_what_nobody_took() -> None:
    rows = ad_rows(random_graph(), 6)
    np.testing.assert_array_equal(rows, ad_rows(random_graph(), 6))
    assert not rows[5].any() and np.square(rows[np.arange(40) != 5]).sum(1).mean() == pytest.approx(1.0, rel=1e-5)


def test_where_lanczos_gives_up_a_larger_basis_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def svds(matrix: sparse.csr_array, **settings: Any) -> Any:
        asked.append(settings.get("ncv"))
        if len(asked) == 1:
            raise ArpackError(3)
        return sparse.linalg.svds(matrix, **settings)

    monkeypatch.setattr(spectral, "_WHOLE_ADS", 0)
    want = ad_rows(random_graph(), 6)
    monkeypatch.setattr(spectral, "svds", svds)
    np.testing.assert_allclose(want @ want.T, (got := ad_rows(random_graph(), 6)) @ got.T, atol=1e-4)
    assert asked == [None, 24]


def test_a_graph_of_less_rank_than_columns_leaves_them_zero() -> None:
    taken = sparse.csr_array(np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32))
    rows = ad_rows(taken, 4)
    assert rows.shape == (3, 4) and not rows[:, 2:].any() and rows[:2, :2].any()
    assert not ad_rows(sparse.csr_array((3, 5), dtype=np.float32), 4).any()


def test_an_id_adds_nothing_to_its_history_and_an_empty_history_says_nothing() -> None:
    world, part = fitted()
    codes = torch.from_numpy(world.user_codes.copy())
    known = part.user(codes, 1)
    codes[:, 0] = UNKNOWN
    assert torch.equal(part.user(codes, 1), known) and known.abs().sum() > 0
    codes[:, history_columns(world.schema)] = PAD
    assert not part.user(codes, 1).any()


def test_the_own_part_weighs_as_much_as_the_domain_knows_of_the_history() -> None:
    world, part = fitted(withheld=0.0)
    part.has_edges_AG[:, 3] = torch.arange(ADS + FIRST) % 2  # the graph of domain 2 has the ads with odd codes
    part.has_edges_AG[:FIRST] = 0.0
    columns = history_columns(world.schema)
    codes = torch.from_numpy(world.user_codes.copy())
    codes[:, columns] = PAD
    codes[:, columns.start : columns.start + 4] = torch.tensor([2, 4, 6, 7], dtype=torch.int32)
    user = part.user(codes, 2) * SMALL.temperature
    pooled, own = user[:, :6].norm(dim=1), user[:, 6:].norm(dim=1)
    weight = SMALL.own_weight / 4
    torch.testing.assert_close(pooled, torch.full((USERS,), 1 - weight))
    torch.testing.assert_close(own, torch.full((USERS,), weight))


def test_cosines_of_the_domain_asked_for() -> None:
    world, part = fitted()
    codes = torch.from_numpy(world.ad_block(np.arange(ADS), 0)[0])
    first, second = part.ad(codes, 0), part.ad(codes, 1)
    assert torch.equal(first[:, :6], second[:, :6]) and not torch.equal(first[:, 6:], second[:, 6:])
    torch.testing.assert_close(first[:, 6:].norm(dim=1), torch.ones(ADS))
    want = ad_rows(interactions(world, 1), 4)[FIRST:]
    torch.testing.assert_close(second[:, 6:], torch.nn.functional.normalize(torch.from_numpy(want)))


def test_the_convolved_part_weighs_as_much_as_asked_and_leaves_the_others_alone() -> None:
    world, part = fitted(CONVOLVED)
    _, without = fitted(SMALL)
    users, ads = (torch.from_numpy(one) for one in (world.user_codes, world.ad_block(np.arange(ADS), 0)[0]))
    user, ad = part.user(users, 1), part.ad(ads, 1)
    torch.testing.assert_close((user[:, :10], ad[:, :10]), (without.user(users, 1), without.ad(ads, 1)))
    weight = CONVOLVED.convolved_weight / CONVOLVED.temperature
    torch.testing.assert_close(user[:, 10:].norm(dim=1), torch.full((USERS,), weight))
    torch.testing.assert_close(ad[:, 10:].norm(dim=1), torch.ones(ADS))
    past_AW, _ = convolved_rows(world, history_columns(world.schema), 5)
    want = past_AW[world.user_codes[:, history_columns(world.schema)]].sum(axis=1)
    torch.testing.assert_close(user[:, 10:] / weight, torch.nn.functional.normalize(torch.from_numpy(want)))


def test_the_factored_part_weighs_as_much_as_asked_and_leaves_the_others_alone() -> None:
    world, part = fitted(FACTORED)
    _, without = fitted(SMALL)
    users, ads = (torch.from_numpy(one) for one in (world.user_codes, world.ad_block(np.arange(ADS), 0)[0]))
    user, ad = part.user(users, 1), part.ad(ads, 1)
    torch.testing.assert_close((user[:, :10], ad[:, :10]), (without.user(users, 1), without.ad(ads, 1)))
    past_AF, factored_AF = factored_rows(interactions(world), 7)
    want = past_AF[world.user_codes[:, history_columns(world.schema)]].sum(axis=1)
    weight = FACTORED.factored_weight / FACTORED.temperature
    torch.testing.assert_close(user[:, 10:] / weight, torch.nn.functional.normalize(torch.from_numpy(want)))
    torch.testing.assert_close(ad[:, 10:], torch.from_numpy(factored_AF[FIRST:]))


def test_towers_without_training_rank_by_the_graph(tmp_path: Path) -> None:
    """Two groups of users and their ads in all domains: the graph alone tells them apart. The towers' files say the same."""
    world = World(history=True, withheld=0.2)
    law = (world.columns["user_row"] + world.columns["ad_row"]) % 2 == 0
    world.columns = {name: column[law] for name, column in world.columns.items()}
    past = world.user_codes[:, world.history_columns()]
    past[(past - FIRST + np.arange(USERS)[:, None]) % 2 == 1] = PAD
    torch.manual_seed(0)
    model = ADI(world.schema, ADIConfig(width=8, expert_widths=(8,), forward_widths=(8,), graph=CONVOLVED)).eval()
    model.prepare(world)
    user_BE = model.user_embedding(*blocks(world.user_block(np.arange(USERS), 0)), 0)
    ad_AE = model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), 0)), 0)
    graph = slice(model.config.width, model.config.width + SMALL.pooled_width)
    score_UA = (user_BE[:, graph] @ ad_AE[:, graph].T).detach().numpy()
    own = (np.arange(USERS)[:, None] + np.arange(ADS)) % 2 == 0
    top = np.argsort(-score_UA, axis=1)[:, : ADS // 2]
    assert np.take_along_axis(own, top, axis=1).all()
    for side in ("user", "ad"):
        path = tmp_path / f"{side}.onnx"
        export.export_tower(model, world.schema, side, 0, path)  # type: ignore[arg-type]
        assert export.tower_difference(model, world.schema, side, 0, path, 9, seed=1) < 1e-5  # type: ignore[arg-type]


def test_a_newer_graph_takes_the_place_of_the_last() -> None:
    _, part = fitted()
    before = part.pooled_AK.clone()
    more = World(history=True, withheld=0.0)
    part.fit(more)
    torch.testing.assert_close(part.pooled_AK, torch.from_numpy(ad_rows(interactions(more), 6)))
    assert not torch.equal(before, part.pooled_AK)


def test_the_graph_is_as_strong_as_the_measure_likes_it() -> None:
    world, part = fitted()
    codes = torch.from_numpy(world.user_codes)
    whole = part.user(codes, 0)
    settle([part], lambda: -abs(float(part.strength) - 0.25))
    torch.testing.assert_close(part.user(codes, 0), whole * 0.25)
    settle([part], lambda: 1.0)
    assert float(part.strength) == 1.0  # the strongest of equals
    settle([part], lambda: float(part.strength == 0.0))
    assert not part.user(codes, 0).any()
    part.fit(world)
    assert float(part.strength) == 0.0  # a newer graph is not a stronger one
    settle([part], lambda: None)
    assert float(part.strength) == 1.0
