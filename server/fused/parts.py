"""Parts that several rankers are made of: an MLP whose first layer is split, DFEI's features, DSFM's retrievers.

Each has a share of its own that is computed once a request (`begin`) and a share a candidate. Weights are kept as (in, out).
C candidates, H hidden units, K width of a domain vector, D domains; see tokens.py for the rest.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from server.fused import kernels
from server.fused.tokens import Split
from server.fused.weights import F32, NotFused, Weights

Layer = tuple[F32, F32]
Rows = np.ndarray[Any, np.dtype[np.int64]]


def layers(weights: Weights, name: str, first: int = 0) -> list[Layer]:
    """(in, out) weights and biases of an MLP from layer `first` on."""
    found = [weights.linear(f"{name}.linears.{number}") for number in range(weights.layers(name))]
    if len(found) <= first:
        raise NotFused(f"the ranker's file has no MLP {name!r} of more than {first} layers")
    for (before, _), (after, _) in pairwise(found):
        if after.shape[1] != before.shape[0]:
            raise NotFused(f"layers of {name!r} do not fit: {before.shape} before {after.shape}")
    return [(np.ascontiguousarray(weight.T), bias) for weight, bias in found[first:]]


def rectified(x: F32, bias: F32) -> F32:
    """relu(x + bias), in place."""
    kernels.rectify(x, bias, x.shape[1])
    return x


def last(x_CH: F32, layer: Layer) -> F32:
    """The (C,) output of a last layer of width 1."""
    out: F32 = x_CH @ layer[0][:, 0] + layer[1]
    return out


class First:
    """A first layer (several of them side by side) over the tokens, split."""

    def __init__(self, split: Split, *linears: Layer) -> None:
        weight = np.concatenate([one for one, _ in linears])
        self._shared, self._own, self._bias = split(weight, np.concatenate([one for _, one in linears]))

    def begin(self, shared_SE: F32) -> F32:
        """The request's share (H,), bias included."""
        share: F32 = shared_SE.reshape(-1) @ self._shared + self._bias
        return share

    def begin_each(self, shared_RSE: F32) -> F32:
        """Of R versions of the shared tokens: (R, H)."""
        share: F32 = shared_RSE.reshape(len(shared_RSE), -1) @ self._shared + self._bias
        return share

    def __call__(self, own: F32) -> F32:
        """The candidates' share; own: (C, ...) tokens in C order."""
        out: F32 = own.reshape(len(own), -1) @ self._own
        return out


class TokenRetriever:
    """DSFM's retriever over feature tokens. J: memory tokens of the candidate's own, N: tokens of any kind."""

    def __init__(self, weights: Weights, name: str, width: int) -> None:
        query, key = (weights.take(f"{name}.{one}.weight", None, width) for one in ("query", "key"))
        lanes = len(query)
        value = weights.take(f"{name}.output.weight", width, lanes) @ weights.take(f"{name}.value.weight", lanes, width)
        self._query_EA, self._key_EA, self._value_EE = (np.ascontiguousarray(one.T) for one in (query, key, value))
        widen, self._widen_A = weights.linear(f"{name}.widen", width, lanes)
        narrow, self._narrow_E = weights.linear(f"{name}.narrow", lanes, width)
        self._widen_EA, self._narrow_AE = np.ascontiguousarray(widen.T), np.ascontiguousarray(narrow.T)

    def query(self, token_NE: F32) -> F32:
        return _phi(token_NE @ self._query_EA)

    def key(self, token_NE: F32) -> F32:
        return _phi(token_NE @ self._key_EA)

    def value(self, token_NE: F32) -> F32:
        out: F32 = token_NE @ self._value_EE
        return out

    def remember(self, token_SE: F32) -> F32:
        """memory_AE1: sums over shared memory tokens of phi(K) V, and of phi(K) in the last column."""
        counted_SE1 = np.concatenate([self.value(token_SE), np.ones((len(token_SE), 1), np.float32)], axis=1)
        out: F32 = self.key(token_SE).T @ counted_SE1
        return out

    def fed(self, found_NE: F32) -> F32:
        """FFN(Za) + Za, in place."""
        wide_NA = rectified(found_NE @ self._widen_EA, self._widen_A)
        kernels.add_both(found_NE, wide_NA @ self._narrow_AE, self._narrow_E)
        return found_NE


class DomainFeatures:
    """DFEI: u_d(x), z and v_ud. `beside`: a hidden layer over the tokens that rides in the same product as the towers' first."""

    def __init__(self, weights: Weights, split: Split, beside: str | None = None) -> None:
        of = weights.architecture
        self.reads = of.reads
        towers = [f"features.towers.towers.{domain}" for domain in range(of.domains)]
        self._later = [layers(weights, one, first=1) for one in towers]
        self.width = width = self._later[0][-1][0].shape[1]
        before = [weights.linear(beside)] if beside else []
        after = []
        if "z" in self.reads:
            after.append(weights.linear("features.query", None, width))
            self._key_KK = weights.take("features.key.weight", width, width)
            self._value, self._value_bias = weights.linear("features.value", width, width)
        own = [weights.linear(f"{one}.linears.0") for one in towers]
        self._first = [First(split, *before, one, *after) for one in own]
        self._beside = len(before[0][1]) if before else 0
        self._hidden = self._beside + len(own[0][1])  # then the query, which is not rectified
        self._prior_DK = None if of.per_user else weights.take("features.average.vectors_DK", of.domains, width)

    def begin(self, domain: int, shared_SE: F32, vectors_DK: F32 | None) -> Asked:
        v_DK = self._prior_DK if self._prior_DK is not None else vectors_DK
        assert v_DK is not None
        return Asked(self, domain, shared_SE, np.ascontiguousarray(v_DK, dtype=np.float32))


class Asked:
    """DomainFeatures of one request."""

    def __init__(self, of: DomainFeatures, domain: int, shared_SE: F32, v_DK: F32) -> None:
        self._of, self._first, self._later = of, of._first[domain], of._later[domain]
        self._share = self._first.begin(shared_SE)
        self.own_K = v_DK[domain]
        if "z" in of.reads:
            self._ask_KD = of._key_KK @ v_DK.T / np.float32(of.width**0.5)
            self._answer_DK = v_DK @ of._value.T + of._value_bias  # the weights sum to one, so h1 may act before them

    def __call__(self, own_CFE: F32) -> tuple[F32, F32, F32 | None]:
        """(the layer beside, rectified), u_CK, z_CK (None where it is not read)."""
        of, joint = self._of, self._first(own_CFE)
        kernels.rectify(joint, self._share, of._hidden)
        u = joint[:, of._beside : of._hidden]
        for weight, bias in self._later:
            u = rectified(u @ weight, bias)
        z = None
        if "z" in of.reads:
            weight_CD = joint[:, of._hidden :] @ self._ask_KD
            kernels.softmax(weight_CD)
            z = weight_CD @ self._answer_DK
        return joint[:, : of._beside], u, z


def _phi(x_NA: F32) -> F32:
    kernels.phi(x_NA)
    return x_NA
