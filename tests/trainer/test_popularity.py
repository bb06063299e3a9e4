"""Popularity against plain counts."""

from __future__ import annotations

import numpy as np
import torch
from retrieval_world import ADS, DOMAINS, World, blocks

from contracts.schema import PAD, UNKNOWN
from trainer.baselines.popularity import Popularity, PopularityConfig
from trainer.fit import FitSettings


def test_scores_are_smoothed_log_counts_of_positives_in_the_domain() -> None:
    world = World()
    rng = np.random.default_rng(0)
    world.columns["label"] = (rng.random(len(world.columns["label"])) < 0.4).astype(np.float32)
    model = Popularity(world.schema, PopularityConfig(smoothing=0.5))
    model.fit_whole(world, FitSettings())
    for domain in range(DOMAINS):
        taken = (world.columns["domain"] == domain) & (world.columns["label"] == 1)
        count = np.bincount(world.columns["ad_row"][taken], minlength=ADS)
        got = model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), domain)), domain)
        np.testing.assert_allclose(got[:, 0].numpy(), np.log(count + 0.5), rtol=1e-6)
        user = model.user_embedding(*blocks(world.user_block(np.arange(3), domain)), domain)
        assert torch.equal(user, torch.ones(3, model.dimension))


def test_an_ad_without_a_code_is_below_every_other() -> None:
    world = World()
    model = Popularity(world.schema)
    model.fit_whole(world, FitSettings())
    unseen = model.ad_embedding(torch.tensor([[UNKNOWN], [PAD]], dtype=torch.int32), torch.zeros(2, 0), 0)
    known = model.ad_embedding(*blocks(world.ad_block(np.arange(ADS), 0)), 0)
    assert unseen.max() < known.min()
    assert torch.isfinite(unseen).all()


def test_counts_are_part_of_the_state() -> None:
    world = World()
    model, copy = Popularity(world.schema), Popularity(world.schema)
    model.fit_whole(world, FitSettings())
    copy.load_state_dict(model.state_dict())
    assert torch.equal(model.log_count_DA, copy.log_count_DA)
