"""What models say about themselves, checked where the answer is known: effects planted by hand, weights set by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tables_world as world
import torch

from trainer.adi import ADI, ADIConfig
from trainer.adi_layers import SqueezeExcitation
from trainer.baselines.popularity import Popularity
from trainer.baselines.shared_dnn import SharedDNN, SharedDNNConfig
from trainer.dsfm import DSFM, DSFMConfig
from trainer.explain import adaptation_weights, rank_movement
from trainer.layers import FieldEmbedding
from trainer.tables import Tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return world.build(tmp_path_factory.mktemp("tables"))


def test_ranks_follow_the_effects_in_each_model(tables: Tables) -> None:
    """Linear models whose weights on each token are powers of two apart: the largest first, in each model's own order."""

    class Planted(torch.nn.Module):
        def __init__(self, order: list[str]) -> None:
            super().__init__()
            self.embedding = FieldEmbedding(tables.schema, 4, with_domain_token=True)
            with torch.no_grad():
                for parameter in self.embedding.parameters():
                    parameter.fill_(1.0)  # every token's effect is its weight, however often it is empty
            self.weight_F = torch.tensor([2.0 ** -order.index(name) for name in self.embedding.names])

        def logit(self, tokens_BFE: torch.Tensor) -> torch.Tensor:
            return (tokens_BFE.sum(2) * self.weight_F).sum(1)

    every = FieldEmbedding(tables.schema, 4, with_domain_token=True).names
    names = ["city", "brand", "hour", "domain"]
    others = [one for one in every if one not in names]
    before, after = [*names, *others], [*reversed(names), *others]
    found = rank_movement(Planted(before), Planted(after), tables, seed=0)  # type: ignore[arg-type]
    assert [found[name]["before"] for name in names] == [1, 2, 3, 4]
    assert [found[name]["after"] for name in names] == [4, 3, 2, 1]
    assert sorted(one["after"] for one in found.values()) == list(range(1, len(found) + 1))


def test_rank_movement_of_the_real_models_ranks_every_feature(tables: Tables) -> None:
    torch.manual_seed(0)
    base, model = SharedDNN(tables.schema, SharedDNNConfig()), DSFM(tables.schema, DSFMConfig(), ["city", "slot"])
    found = rank_movement(base, model, tables, seed=0)
    assert set(found) == set(model.embedding.names) and found == rank_movement(base, model, tables, seed=0)


def test_adaptation_weights_are_each_domains_mean_weight_a_field(tables: Tables) -> None:
    torch.manual_seed(0)
    model = ADI(tables.schema, ADIConfig(width=8, expert_widths=(8,), forward_widths=(8,)))
    adaptation = model.user_tower.adaptation
    assert isinstance(adaptation, SqueezeExcitation)
    with torch.no_grad():
        for domain, layer in enumerate(adaptation.excite):
            layer.weight.zero_()  # type: ignore[operator, union-attr]
            layer.bias.copy_(torch.arange(layer.bias.numel()) + 10.0 * domain)  # type: ignore[arg-type, operator, union-attr]
    found = adaptation_weights(model, tables, seed=0)
    fields = model.embedding.block_fields("user")
    for domain, name in enumerate(tables.domains):
        assert found["user"][name] == pytest.approx({field: at + 10.0 * domain for at, field in enumerate(fields)})
        rows = np.asarray(tables.eligible(domain), dtype=np.int64)
        codes, dense = map(torch.from_numpy, tables.ad_block(rows, domain))
        with torch.no_grad():
            weight_BF = model.ad_tower.adaptation.weights(model.embedding.block_tokens("ad", codes, dense), domain)  # type: ignore[operator]
        assert list(found["ad"][name].values()) == pytest.approx(weight_BF.mean(0).tolist(), abs=1e-6)


def test_a_model_without_weights_says_nothing(tables: Tables, tmp_path: Path) -> None:
    assert adaptation_weights(ADI(tables.schema, ADIConfig(width=8, adaptation="lt")), tables, seed=0) == {}
    assert adaptation_weights(Popularity(tables.schema), tables, seed=0) == {}
