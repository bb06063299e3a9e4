"""Fused rankers give what their stock graphs give: every architecture, every kind of sensitive feature, any crowd."""

from __future__ import annotations

from pathlib import Path

import fused_world as world
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import logit

from contracts.errors import BadInput
from indexer import compiler
from server.fused.chain import TOLERANCE, fused
from trainer.layers import Ranker

SENSITIVE = {"users": world.USERS_ONLY, "mixed": world.MIXED, "ads": world.ADS_ONLY}
ALONE = ["shared_dnn", "dfei", "dfei:v_d_only", "dfei:no_dfi", "dfei:no_dfe", "pepnet"]
REMEMBERING = [
    "dsfm",
    "dsfm:no_emb_attn",
    "dsfm:no_hidden_attn",
    "dsfm:no_aux_logit",
    "dsfm_dfei",
    "dsfm_dfei:no_dfi",
    "dsfm_dfei:v_d_only",
]
CASES = [(name, "mixed") for name in ALONE] + [(name, kind) for name in REMEMBERING for kind in SENSITIVE]


class Pair:
    def __init__(self, name: str, kind: str, directory: Path) -> None:
        self.model: Ranker = world.ranker(name, SENSITIVE[kind])
        self.graph = world.write(self.model, directory)
        self.fused = fused(self.graph.path, None)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*request.param, tmp_path_factory.mktemp("pair"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 600), seed=st.integers(0, 2**32 - 1))
def test_random_requests_agree(pair: Pair, count: int, seed: int) -> None:
    feeds = world.feeds(pair.model, count, seed)
    expected = pair.graph.run(feeds)
    found = pair.fused.run(feeds)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.abs(found - expected).max() < TOLERANCE


def test_two_thousand_candidates_agree_and_differ_from_each_other(pair: Pair) -> None:
    feeds = world.feeds(pair.model, 2000, 1)
    expected = pair.graph.run(feeds)
    assert np.abs(pair.fused.run(feeds) - expected).max() < TOLERANCE
    assert logit(expected).std() > 0.01  # else agreement would say nothing


def test_a_row_alone_equals_the_row_in_a_crowd(pair: Pair) -> None:
    feeds = world.feeds(pair.model, 600, 2)
    together = pair.fused.run(feeds)
    for row in (0, 1, 499, 500, 599):  # both sides of a chunk's end
        alone = {key: one[row : row + 1] if key.startswith("ad_") else one for key, one in feeds.items()}
        assert pair.fused.run(alone)[0] == pytest.approx(together[row], abs=1e-6)


def test_a_request_of_missing_values_without_history_agrees(pair: Pair) -> None:
    """Every code 0, every number 0, vectors that are all zero: sequences are empty, attention is even."""
    feeds = {key: np.zeros_like(one) for key, one in world.feeds(pair.model, 5, 3).items()}
    assert np.abs(pair.fused.run(feeds) - pair.graph.run(feeds)).max() < TOLERANCE
    unknown = {key: np.ones_like(one) if key.endswith("codes") else one for key, one in feeds.items()}
    assert np.abs(pair.fused.run(unknown) - pair.graph.run(unknown)).max() < TOLERANCE


def test_no_candidates_are_no_answers(pair: Pair) -> None:
    feeds = world.feeds(pair.model, 1, 0)
    assert pair.fused.run({key: one[:0] if key.startswith("ad_") else one for key, one in feeds.items()}).shape == (0,)


def test_read_only_inputs_are_no_other_inputs(pair: Pair) -> None:
    """A user's row is unpacked from immutable bytes, ads are mapped: nothing may be compiled anew for them."""
    feeds = world.feeds(pair.model, 4, 4)
    expected = pair.fused.run(feeds)
    for one in feeds.values():
        one.setflags(write=False)
    assert np.array_equal(pair.fused.run(feeds), expected)


@pytest.mark.parametrize("name", ["user_codes", "ad_codes", "context_codes"])
@pytest.mark.parametrize("code", [-1, 10_000])
def test_a_code_that_a_feature_does_not_have_is_refused(name: str, code: int, tmp_path: Path) -> None:
    pair = Pair("shared_dnn", "mixed", tmp_path)
    feeds = world.feeds(pair.model, 3, 0)
    feeds[name][-1, -1] = code
    with pytest.raises(BadInput, match=name):
        pair.fused.run(feeds)
    with pytest.raises(BadInput, match="domain"):
        pair.fused.run({**world.feeds(pair.model, 3, 0), "domain": np.array([3])})


def test_the_polynomial_is_exp() -> None:
    """Through phi, whose negative side is exp."""
    compiler.configure(None)
    from server.fused import kernels

    x = np.concatenate([np.linspace(-120, 0, 100_001), [-1e30, -0.0]]).astype(np.float32)[None].copy()
    expected = np.exp(x.astype(np.float64))
    kernels.phi(x)
    assert np.abs(x - expected).max() < 1e-7
    relative = np.abs(x / np.maximum(expected, 1e-37) - 1)
    rounding = 1e-7 * (4 - np.log(np.maximum(expected, 1e-37)))  # x / ln 2 is rounded before it is raised
    assert (relative < rounding)[expected > 1e-37].all()
