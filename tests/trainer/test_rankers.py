"""One behaviour suite for every ranker and every variant that changes what is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranker_world import Batch, batch, export, one_request, run, schema
from torch import Tensor

from contracts.errors import BadInput
from trainer import dfei, dsfm, dsfm_dfei
from trainer.baselines import (
    adasparse,
    aitm,
    apg,
    dcnv2,
    hinet,
    hmoe,
    lightgbm,
    mmoe,
    pepnet,
    ple,
    separate_dnn,
    shared_bottom,
    shared_dnn,
    star,
)
from trainer.baselines.experts import ExpertsConfig
from trainer.fit import FitSettings
from trainer.layers import Inputs, Ranker
from trainer.metrics import auc

DOMAINS = 3
SENSITIVE = ["style", "taste", "seen"]
SMALL: dict[str, Any] = {"hidden": (16, 12), "dim": 8, "embedding_l2": 1e-4}
NARROW: dict[str, Any] = {"bottom": (16,), "expert": (12,), "tower": (8,), "dim": 8, "embedding_l2": 1e-4, "dropout": 0.0}
_FEATURES = dfei.DFEIConfig(hidden=(16, 12), dropout=(0.0, 0.0))
_DNN = shared_dnn.SharedDNNConfig(**SMALL, dropout=0.0)
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "shared_dnn": (shared_dnn.SharedDNN, _DNN, shared_dnn.VARIANTS),
    "separate_dnn": (separate_dnn.SeparateDNN, _DNN, separate_dnn.VARIANTS),
    "dsfm": (dsfm.DSFM, dsfm.DSFMConfig(**SMALL, dropout=0.0), dsfm.VARIANTS),
    "dfei": (dfei.DFEI, dfei.DFEIConfig(**SMALL, dropout=(0.0, 0.0)), dfei.VARIANTS),
    "dsfm_dfei": (
        dsfm_dfei.DSFMDFEI,
        dsfm_dfei.DSFMDFEIConfig(**SMALL, dropout=0.0, features=_FEATURES),
        {name: dsfm_dfei.VARIANTS[name] for name in dfei.FEATURE_VARIANTS},  # the others are those of dsfm
    ),
    "shared_bottom": (shared_bottom.SharedBottom, ExpertsConfig(**NARROW), shared_bottom.VARIANTS),
    "mmoe": (mmoe.MMoE, ExpertsConfig(**NARROW), mmoe.VARIANTS),
    "ple": (ple.PLE, ExpertsConfig(**NARROW), ple.VARIANTS),
    "hinet": (hinet.HiNet, hinet.HiNetConfig(**NARROW, own_expert=(8,)), hinet.VARIANTS),
    "aitm": (aitm.AITM, ExpertsConfig(**NARROW), aitm.VARIANTS),
    "hmoe": (hmoe.HMoE, ExpertsConfig(**NARROW), hmoe.VARIANTS),
    "star": (star.STAR, star.STARConfig(**SMALL, dropout=0.0, auxiliary=(8,)), star.VARIANTS),
    "pepnet": (pepnet.PEPNet, pepnet.PEPNetConfig(**SMALL, dropout=0.0, gate=8), pepnet.VARIANTS),
    "adasparse": (adasparse.AdaSparse, adasparse.AdaSparseConfig(**SMALL, dropout=0.0), adasparse.VARIANTS),
    "apg": (apg.APG, apg.APGConfig(**SMALL, dropout=0.0, rank=6), apg.VARIANTS),
    "dcnv2": (dcnv2.DCNv2, dcnv2.DCNv2Config(**SMALL, dropout=0.0, rank=8), dcnv2.VARIANTS),
    "lightgbm": (lightgbm.LightGBM, lightgbm.LightGBMConfig(leaves=12, depth=6, rounds=40, rows_per_leaf=10), lightgbm.VARIANTS),
}
CALLERS = {"last_n", "all_features"}  # who builds the model feeds it other features
BUILT = [*MODELS, *(f"{name}:{one}" for name, (_, _, found) in MODELS.items() for one in found if one not in CALLERS)]
# Every operator and every set of inputs is in one of these; the other variants leave parts out. shared_dnn: test_export.py.
GRAPHS = ["separate_dnn", "dsfm", "dsfm:softmax_attn", "dfei", "dsfm_dfei", "dsfm_dfei:v_d_only"]
GRAPHS += ["shared_bottom", "mmoe", "ple", "hinet", "aitm", "hmoe"]
GRAPHS += ["star", "pepnet", "adasparse", "apg", "dcnv2", "lightgbm"]
WITHOUT_GRADIENTS = {"lightgbm"}


class Entities:
    """The part of Tables that `prepare` and `fit_whole` read: a training split and an empty validation one."""

    positives_only = False

    def __init__(self, train: Batch) -> None:
        self._train = train
        self._columns = {"user_row": train.user_row.numpy(), "domain": train.inputs.domain.numpy()}

    def column(self, split: str, name: str) -> Any:
        return self._columns[name]

    def split_size(self, split: str) -> int:
        return len(self._train.label) if split == "train" else 0

    def batch(self, split: str, rows: Any) -> Batch:
        return Batch(pick(self._train.inputs, torch.from_numpy(rows)), *(one[rows] for one in self._train[1:]))


def build(name: str, seed: int = 0) -> Ranker:
    model, _, variant = name.partition(":")
    cls, config, variants = MODELS[model]
    torch.manual_seed(seed)
    change = variants[variant] if variant else {}
    return cls(schema(DOMAINS), change(config) if callable(change) else replace(config, **change), SENSITIVE)


def stirred(name: str, seed: int = 0) -> Ranker:
    """With parameters and statistics far from their quiet start, so that every path shows in the output."""
    model = build(name, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        kept = (one for key, one in model.named_buffers() if key.endswith("vectors_DK") or key == "offset_D")
        for one in (*model.parameters(), *kept):
            one.add_(0.3 * torch.randn(one.shape, generator=generator))
        seen = batch(100, DOMAINS, seed=seed)
        model.prepare(Entities(seen))  # type: ignore[arg-type]
        if name in WITHOUT_GRADIENTS:
            train(model, seen, 1)
        else:
            model.train().training_loss(seen)
    return model.eval()


def train(model: Ranker, data: Batch, steps: int, lr: float = 0.03) -> Tensor:
    """-> the last loss."""
    model.prepare(Entities(data))  # type: ignore[arg-type]
    loss = torch.zeros(())
    if hasattr(model, "fit_whole"):
        model.fit_whole(Entities(data), FitSettings())
        return loss
    optimizer = torch.optim.Adam(model.parameter_groups(lr), fused=True)
    model.train()
    for _ in range(steps):
        model.start_epoch()
        for part in [data] if not model.domain_pure else [of_domain(data, one) for one in range(DOMAINS)]:
            loss = model.training_loss(part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.detach()


def of_domain(data: Batch, domain: int) -> Batch:
    rows = (data.inputs.domain == domain).nonzero().squeeze(1)
    return Batch(pick(data.inputs, rows), *(one[rows] for one in data[1:]))


def pick(inputs: Inputs, rows: Tensor) -> Inputs:
    return Inputs(*(None if one is None else one[rows] for one in inputs))


def vectors(model: Ranker, rows: int, seed: int = 5) -> Tensor | None:
    if model.user_vectors is None:
        return None
    return torch.randn(rows, DOMAINS, model.user_vectors.dimension, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BUILT)
def test_learns_what_no_domain_blind_model_can(name: str) -> None:
    data, fresh = batch(600, DOMAINS, seed=1), batch(600, DOMAINS, seed=2)
    model = build(name)
    train(model, data, 200 if name.endswith("alpha_0_99") else 50)  # its v_d are a hundred steps behind
    model.eval()
    with torch.no_grad():
        logit = model(model.serving_inputs(fresh))
    assert auc(fresh.label.numpy(), logit.numpy()) > 0.85  # the best domain-blind scorer has 2/3


@pytest.mark.parametrize("name", [one for one in BUILT if one not in WITHOUT_GRADIENTS])
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = stirred(name).train()
    data = batch(300, DOMAINS, seed=3)
    model.prepare(Entities(data))  # type: ignore[arg-type]
    model.training_loss(data).backward()
    unreached = [key for key, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    assert unreached == []


@pytest.mark.parametrize("name", BUILT)
def test_a_row_alone_equals_the_row_in_a_crowd(name: str) -> None:
    model = stirred(name)
    many = batch(40, DOMAINS, seed=4).inputs
    many = many._replace(user_vectors=vectors(model, 40))
    with torch.no_grad():
        crowd = model.calibrated(many)
        alone = torch.cat([model.calibrated(pick(many, torch.tensor([row]))) for row in range(40)])
    torch.testing.assert_close(crowd, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BUILT)
def test_one_shared_user_row_equals_that_row_repeated(name: str) -> None:
    model = stirred(name)
    request = one_request(batch(9, DOMAINS, seed=5).inputs, vectors(model, 1))
    repeated = Inputs(*(one if one is None or len(one) == 9 else one.expand(9, *one.shape[1:]) for one in request))
    with torch.no_grad():
        torch.testing.assert_close(model.calibrated(request), model.calibrated(repeated), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_exported_graph_agrees(name: str, tmp_path: Path) -> None:
    model = stirred(name)
    session = export(model, tmp_path / "ranker.onnx")
    for rows, seed in ((1, 7), (2, 8), (300, 9)):
        asked = one_request(batch(rows, DOMAINS, seed=seed).inputs, vectors(model, 1))
        for domain in range(DOMAINS):
            here = asked._replace(domain=torch.tensor([domain]))
            with torch.no_grad():
                expected = torch.sigmoid(model.calibrated(here)).numpy()
            assert abs(run(session, here) - expected).max() < 1e-5


@pytest.mark.parametrize("name", GRAPHS)
def test_its_graph_takes_candidates_of_several_requests(name: str, tmp_path: Path) -> None:
    """Of one domain, what a request's candidates share repeated for each of them, as a gateway on a GPU asks."""
    model = stirred(name)
    session, counts = export(model, tmp_path / "ranker.onnx"), (4, 1, 9)
    requests = [
        one_request(batch(rows, DOMAINS, seed, domain=1).inputs, vectors(model, 1, seed)) for seed, rows in enumerate(counts)
    ]
    joined = {
        field: torch.cat([one.expand(rows, *one.shape[1:]) for one, rows in zip(values, counts, strict=True)])
        for field in Inputs._fields
        if field != "domain" and (values := [getattr(one, field) for one in requests])[0] is not None
    }
    together = run(session, Inputs(**{"user_vectors": None, "domain": requests[0].domain, **joined}))
    assert abs(together - np.concatenate([run(session, one) for one in requests])).max() < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_tiny_and_absent_domains_break_nothing(name: str) -> None:
    """Two hundred rows of one domain, one of another, none of the third; then a batch of a single row."""
    data = batch(201, DOMAINS, seed=10)
    data = data._replace(inputs=data.inputs._replace(domain=(torch.arange(201) == 0).long()))
    alone = Batch(pick(data.inputs, torch.tensor([0])), *(one[:1] for one in data[1:]))
    model = build(name)
    for part in (data, data) if name in WITHOUT_GRADIENTS else (data, alone, data):
        train(model, part, 1)
    assert all(torch.isfinite(one).all() for one in model.parameters())
    model.eval()
    asked = batch(60, DOMAINS, seed=11)
    with torch.no_grad():
        assert torch.isfinite(model(model.serving_inputs(asked))).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    states = []
    for _ in range(2):
        model = build(name, seed=11)
        train(model, batch(200, DOMAINS, seed=12), 3)
        states.append(model.state_dict())
    assert all(torch.equal(one, states[1][key]) for key, one in states[0].items())


@pytest.mark.parametrize("name", [one for one in BUILT if ":" in one])
def test_a_variant_computes_something_else(name: str) -> None:
    """With the parameters that both have set equal, logits or what training leaves behind differ."""
    base, variant = stirred(name.partition(":")[0], seed=1), stirred(name, seed=1)
    own = variant.state_dict()
    shared = {key: one for key, one in base.state_dict().items() if key in own and one.shape == own[key].shape}
    variant.load_state_dict({**own, **shared})
    data = batch(200, DOMAINS, seed=13)
    outcomes = []
    for model in (base, variant):
        groups = [round(one["lr"], 6) for one in model.parameter_groups(1.0)]
        train(model, data, 1)
        model.eval()
        with torch.no_grad():
            outcomes.append((groups, model(model.serving_inputs(data))))
    assert outcomes[0][0] != outcomes[1][0] or (outcomes[0][1] - outcomes[1][1]).abs().max() > 1e-4


def test_selection_variants_tell_the_caller_what_to_feed() -> None:
    chosen = {name: replace(dsfm.DSFMConfig(), **dsfm.VARIANTS[name]).selection for name in sorted(CALLERS)}
    assert chosen == {"all_features": "all", "last_n": "last"}


def test_the_papers_sizes() -> None:
    public, industrial = dsfm.public(), dsfm.industrial()
    assert (public.dim, public.hidden, public.attention, public.hidden_attention) == (8, (128, 64, 32), 16, 4)
    assert (industrial.dim, industrial.hidden, industrial.attention, industrial.hidden_attention) == (8, (256, 128, 64), 32, 8)


@pytest.mark.parametrize(("sensitive", "message"), [([], "no sensitive features"), (["colour"], "'colour'")])
@pytest.mark.parametrize("model", ["dsfm", "dsfm_dfei"])
def test_memory_without_known_features_is_refused(model: str, sensitive: list[str], message: str) -> None:
    cls, config, _ = MODELS[model]
    with pytest.raises(BadInput, match=message):
        cls(schema(DOMAINS), config, sensitive)
    assert dsfm.DSFM(schema(DOMAINS), dsfm.DSFMConfig(base_only=True), [])


def test_separate_domains_share_nothing() -> None:
    """What one domain learns changes no answer of another."""
    model = build("separate_dnn")
    others = of_domain(batch(200, DOMAINS, seed=14), 1).inputs
    model.eval()
    with torch.no_grad():
        before = model(others)
        model.train()
    for _ in range(3):
        train(model, of_domain(batch(200, DOMAINS, seed=15), 0), 1)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(others), before)


@pytest.mark.parametrize("name", ["dfei", "shared_bottom", "mmoe", "aitm"])
def test_a_hundred_domains_cost_what_their_rows_cost(name: str) -> None:
    """Each row runs through one tower: the multiplications of a mixed batch do not grow with the number of domains."""
    from torch.utils.flop_counter import FlopCounterMode

    cls, config, _ = MODELS[name]
    flops = []
    for domains in (2, 100):
        torch.manual_seed(0)
        model = cls(schema(domains), config)
        data = batch(256, domains, seed=16)
        with FlopCounterMode(display=False) as counter:
            model.training_loss(data)
        flops.append(counter.get_total_flops())
    assert flops[1] < 1.5 * flops[0]
