"""Attribution: effects, distances and the ranking, on numbers, on a planted sample and on the simulated world."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from ranker_world import batch, schema
from torch import Tensor, nn

from contracts.errors import BadInput
from contracts.ids import IdTable
from contracts.schema import FIRST, FeatureSchema, FeatureSpec, Numeric
from trainer.attribution import (
    STEPS,
    DomainSensitivity,
    Sample,
    attribute,
    distributions,
    effects,
    js_sum,
    measure,
    plot,
    select,
    wasserstein_sum,
)
from trainer.baselines.shared_dnn import SharedDNN, SharedDNNConfig
from trainer.batches import epoch_rows
from trainer.datasets.canonical import Dataset
from trainer.datasets.click_law import DECOYS, SENSITIVE, Sizes
from trainer.datasets.simulator import write_demo
from trainer.layers import Inputs
from trainer.tables import Tables


def _model() -> SharedDNN:
    torch.manual_seed(0)
    model = SharedDNN(schema(), SharedDNNConfig(dim=4, hidden=(8,)), [])
    with torch.no_grad():
        model.embedding.weight.normal_()
    return model.eval()


def test_effects_are_the_right_riemann_sum_of_the_logits_gradient() -> None:
    model, inputs = _model(), batch(6).inputs
    tokens = model.embedding(inputs).detach()
    expected = torch.zeros(6, tokens.shape[1])
    for step in range(1, STEPS + 1):
        point = (tokens * step / STEPS).requires_grad_()
        (gradient,) = torch.autograd.grad(model.logit(point).sum(), point)
        expected += (gradient * tokens).sum(dim=2) / STEPS
    torch.testing.assert_close(effects(model, inputs), expected, atol=1e-5, rtol=1e-4)


def test_effects_add_up_to_the_logit_where_it_is_linear() -> None:
    """Completeness: sum_j a_ij = logit(x_i) - logit(0)."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = _model().embedding
            self.weight = nn.Parameter(torch.randn(self.embedding.width))

        def logit(self, tokens_BFE: Tensor) -> Tensor:
            return tokens_BFE.flatten(1) @ self.weight + 3.0

    model, inputs = Linear(), batch(9).inputs
    tokens = model.embedding(inputs)
    found = effects(model, inputs).sum(dim=1)
    torch.testing.assert_close(found, (model.logit(tokens) - 3.0).detach(), atol=1e-5, rtol=1e-5)


def _random_masses(domains: int, values: int) -> np.ndarray:
    mass = np.random.default_rng(0).gamma(0.5, size=(domains, values))
    mass[:, 0] = 0
    return mass / mass.sum(axis=1, keepdims=True)


def test_jensen_shannon_is_scipys_over_all_pairs() -> None:
    mass = _random_masses(4, 9)
    pairs = [scipy.spatial.distance.jensenshannon(mass[i], mass[j]) ** 2 for i in range(4) for j in range(i)]
    assert js_sum(mass) == pytest.approx(sum(pairs))
    assert js_sum(np.vstack([mass, np.zeros(9)])) == pytest.approx(sum(pairs))  # a domain without mass is in no pair
    assert js_sum(np.eye(2)) == pytest.approx(math.log(2))


def test_wasserstein_is_scipys_over_all_pairs() -> None:
    mass, support = _random_masses(4, 9), np.sort(np.random.default_rng(1).standard_normal(9))
    pairs = [scipy.stats.wasserstein_distance(support, support, mass[i], mass[j]) for i in range(4) for j in range(i)]
    assert wasserstein_sum(mass, support) == pytest.approx(sum(pairs))
    unsorted = np.random.default_rng(2).permutation(9)
    assert wasserstein_sum(mass[:, unsorted], support[unsorted]) == pytest.approx(sum(pairs))


def test_distributions_worked_out() -> None:
    """Domain 0: a row of effect 3 with value 0, one of effect 2 over (1, 1, 0): 3 + 2/3 against 4/3, of 5. Domain 1: nothing."""
    number = np.array([[0, -1, -1], [1, 1, 0], [-1, -1, -1]])
    found = distributions(number, np.array([3.0, 2.0, 7.0]), np.array([0, 0, 1]), domains=2, values=2)
    np.testing.assert_allclose(found, [[11 / 15, 4 / 15], [0, 0]])


NAMES = ["planted", "acting", "still", "row_decoy", "user_decoy", "device_decoy", "spread", "plain"]


def _planted(rows: int = 4000) -> tuple[FeatureSchema, Sample]:
    """planted (its values depend on the domain), acting (only its effect does), spread (a number that moves), still, plain
    (a number that does not), and random ids: one a row, one a user, and as context one of each user's five. Users have favourite
    domains."""
    rng = np.random.default_rng(3)
    names = {"planted": 6, "acting": 6, "still": 6, "row_decoy": 1500, "user_decoy": 300, "device_decoy": 1500}
    features = (
        *(FeatureSpec(name=one, side="user" if one == "user_decoy" else "context", kind="categorical") for one in names),
        FeatureSpec(name="spread", side="context", kind="numeric", encoding="standardise"),
        FeatureSpec(name="plain", side="context", kind="numeric"),
    )
    vocabularies = {one: IdTable(str(i) for i in range(size)) for one, size in names.items()}
    numerics = {"spread": Numeric(), "plain": Numeric(edges=(-1.0, 0.0, 1.0))}
    found = FeatureSchema(features, ("a", "b", "c"), vocabularies, numerics)
    user = rng.integers(300, size=rows)
    favourite = rng.integers(3, size=300)
    domain = np.where(rng.random(rows) < 0.6, favourite[user], rng.integers(3, size=rows))
    values = {one: rng.integers(size, size=rows) for one, size in names.items()} | {"user_decoy": user}
    values["device_decoy"] = user * 5 + values["device_decoy"] % 5
    values["planted"] = np.where(rng.random(rows) < 0.4, domain, values["planted"])
    order = [one.name for one in found.block("context").fields if one.matrix == "codes"]
    plain = FIRST + np.searchsorted([-1.0, 0.0, 1.0], rng.standard_normal(rows))
    columns = [plain if one == "plain" else values[one] + FIRST for one in order]
    spread = (rng.standard_normal(rows) + 0.5 * domain).astype(np.float32)
    tensors = [
        torch.tensor(one) for one in (user[:, None] + FIRST, np.zeros((rows, 0)), np.column_stack(columns), spread[:, None])
    ]
    inputs = Inputs(*tensors, torch.zeros(rows, 0), torch.zeros(rows, 0), torch.tensor(domain))
    effect = rng.gamma(2.0, size=(rows, len(NAMES))).astype(np.float32)
    effect[:, 1] *= 1 + 2 * (values["acting"] == domain)
    return found, Sample(effect, inputs, user, np.zeros(rows, dtype=np.int64))


def test_planted_features_win_and_random_ids_lose() -> None:
    found, sample = _planted()
    report = {one.name: one for one in measure(found, NAMES, sample, 5, np.random.default_rng(0))}
    by_rank = sorted((one for one in report.values() if one.kind == "categorical"), key=lambda one: one.rank)
    assert {one.name for one in by_rank[:2]} == {"planted", "acting"}
    assert report["spread"].rank == 0 and report["plain"].rank == 1
    assert min(report[one].raw for one in NAMES if "decoy" in one) > report["planted"].raw  # what the correction is for
    assert set(select(list(report.values()), 3)) == {"planted", "acting", "spread"}


def test_permuted_labels_keep_the_rows_of_an_entity_together() -> None:
    """An id of users loses nothing when users exchange their ids; had single rows been exchanged, it would look sensitive."""
    found, sample = _planted()
    rows = sample.__class__(sample.effect_NF, sample.inputs, np.arange(len(sample.user_N)), sample.ad_N)
    whole, single = (
        {one.name: one for one in measure(found, NAMES, given, 5, np.random.default_rng(0))} for given in (sample, rows)
    )
    for decoy in ("user_decoy", "device_decoy"):
        assert abs(whole[decoy].corrected) < 0.15 * single[decoy].corrected
    for one in ("planted", "acting"):  # what differs by domain within a user still does
        assert whole[one].corrected > 0.9 * single[one].corrected
    assert abs(whole["row_decoy"].corrected) < 0.05 * whole["row_decoy"].raw


def test_without_permutations_nothing_is_taken_off() -> None:
    found, sample = _planted()
    for one in measure(found, NAMES, sample, 0, np.random.default_rng(0)):
        assert one.permuted == 0 and one.corrected == one.raw


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    directory = tmp_path_factory.mktemp("world")
    write_demo(directory / "data", seed=0, sizes=Sizes(users=800, ads=400, impressions=24_000))
    return Tables.build(Dataset.open(directory / "data"), directory / "tables")


def test_finds_what_the_simulated_world_planted(world: Tables, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SharedDNN(world.schema.without_statistics(), SharedDNNConfig(), [])
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for rows in epoch_rows(world, "train", 512, False, np.random.default_rng(0)):
        loss = model.training_loss(world.batch("train", rows))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    report = attribute(model, world, rows_limit=12_000, permutations=3)
    planted = {one for names in SENSITIVE.values() for one in names}
    assert set(select(report, len(planted))) == planted
    place = {one.name: at for at, one in enumerate(report)}
    assert all(place[decoy] > max(place[one] for one in planted) for decoy in DECOYS)
    for kind in ("categorical", "numeric", "sequence"):
        ranks = [one.rank for one in sorted(report, key=lambda one: -one.corrected) if one.kind == kind]
        assert ranks == sorted(ranks) and ranks[0] == 0
    assert report == attribute(model, world, rows_limit=12_000, permutations=3)
    plot(report, tmp_path / "sensitivity.png")
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"


def test_a_split_without_rows_is_named(world: Tables) -> None:
    with pytest.raises(BadInput, match="no rows in split 'valid'"):
        attribute(_model(), _Empty(), split="valid")  # type: ignore[arg-type]


class _Empty:
    def split_size(self, split: str) -> int:
        return 0


def _report(*names: str) -> list[DomainSensitivity]:
    return [DomainSensitivity(one, "categorical", 1.0, 0.0, 1.0 - at / 100, at, 1.0 - at / 100) for at, one in enumerate(names)]


def test_select() -> None:
    few, many = _report("user_id", "a", "b", "c"), _report("user_id", *(f"f{i}" for i in range(12)), "ad_id")
    assert select(few) == ["a"] and select(many) == ["f0", "f1", "f2", "f3", "f4"]
    assert select(few, 2) == ["a", "b"] and select(few, 2, "last") == ["b", "c"]
    assert select(few, mode="all") == ["user_id", "a", "b", "c"]
    assert select(_report("user_id", "ad_id")) == ["user_id"]  # there is nothing else
