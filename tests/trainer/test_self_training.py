"""Self-training picks exactly the top p percent of what is eligible, frozen, and cross-domain only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from retrieval_world import ADS, DOMAINS, USERS, World
from torch import Tensor

from trainer.sampling import Pairs, Sampler, training_pairs
from trainer.self_training import candidates, percent_of, pseudo_positives
from trainer.two_tower import TwoTower


class Planted(TwoTower):
    """score(u, a, d) = table[d, u, a], as an inner product with the ad's one-hot vector."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(DOMAINS, USERS, ADS, generator=torch.Generator().manual_seed(seed)))
        self.was_training: list[bool] = []

    def user_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        self.was_training.append(self.training)
        return self.table[domain][codes[:, 0].long() - 2]

    def ad_embedding(self, codes: Tensor, dense: Tensor, domain: int) -> Tensor:
        return torch.eye(ADS)[codes[:, 0].long() - 2]


def world() -> World:
    made = World(withheld=0.3)
    made.eligible_ads = [np.arange(domain, ADS, 3, dtype=np.int32) for domain in range(DOMAINS)]
    only_elsewhere = (made.columns["user_row"] < 3) & (made.columns["domain"] == 1)  # users 0, 1, 2 are not of domain 1
    made.columns = {name: column[~only_elsewhere] for name, column in made.columns.items()}
    return made


def as_set(pairs: Pairs) -> set[tuple[int, int, int]]:
    return set(zip(*(column.tolist() for column in pairs), strict=True))


def test_candidates_are_other_domains_pairs_on_eligible_ads() -> None:
    made = world()
    pairs = training_pairs(made)
    taken = as_set(pairs)
    for target in range(DOMAINS):
        want = {
            (user, ad, target)
            for user, ad, domain in taken
            if domain != target and ad in made.eligible_ads[target] and (user, ad, target) not in taken
        }
        assert as_set(candidates(made, pairs, target)) == want
        assert want
    assert {0, 1, 2} <= {user for user, _, _ in as_set(candidates(made, pairs, 1))}


@pytest.mark.parametrize("percent", [0.0, 10.0, 55.0, 100.0])
def test_the_top_percent_of_each_domain_are_taken(percent: float) -> None:
    made, model = world(), Planted()
    pairs = training_pairs(made)
    got = pseudo_positives(model, made, pairs, percent)
    for target in range(DOMAINS):
        found = sorted(as_set(candidates(made, pairs, target)), key=lambda one: -model.table[target, one[0], one[1]].item())
        own = int((pairs.domain == target).sum())  # guesses never outnumber what the domain was seen to click
        assert as_set(got.of(target)) == set(found[: min(own, round(len(found) * percent / 100))])


def test_a_small_domain_scores_a_bounded_number_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    made, model = world(), Planted()
    pairs = training_pairs(made)
    monkeypatch.setattr("trainer.self_training._SCORED_PER_POSITIVE", 1)
    for target in range(DOMAINS):
        own, every = int((pairs.domain == target).sum()), as_set(candidates(made, pairs, target))
        got = as_set(pseudo_positives(model, made, pairs, 50.0).of(target))
        assert got <= every and len(got) == round(min(own, len(every)) * 0.5)


def test_the_model_is_frozen_while_it_labels() -> None:
    made, model = world(), Planted()
    model.train()
    pseudo_positives(model, made, training_pairs(made), 50.0)
    assert model.training and not any(model.was_training)
    assert model.table.grad is None


def test_the_percentage_grows_by_a_step_each_epoch_up_to_all() -> None:
    assert [percent_of(epoch, 1, 20.0, 30.0) for epoch in range(6)] == [0.0, 20.0, 50.0, 80.0, 100.0, 100.0]


def test_pseudo_positives_are_drawn_like_positives() -> None:
    made = world()
    sampler = Sampler(made, batch_size=40, uniform=10)
    pseudo = pseudo_positives(Planted(), made, sampler.pairs, 20.0)
    drawn = sum(len(positives.user_row) for positives, _ in sampler.epoch(0, pseudo))
    assert drawn == len(sampler.pairs.user_row) + len(pseudo.user_row) > len(sampler.pairs.user_row)
