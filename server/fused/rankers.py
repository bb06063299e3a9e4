"""Each architecture as a function of the request that gives a function of its candidates.

`begin` computes all that user, context and domain decide; what it returns maps the tokens of candidates to logits and knows of no
other candidate. The equations are those of the trainer's models (trainer/dsfm.py, dfei.py, dsfm_dfei.py, baselines/pepnet.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from server.fused import kernels
from server.fused.memory import Memory
from server.fused.parts import DomainFeatures, First, Layer, last, layers, rectified
from server.fused.tokens import Feeds, Own, Split, Tokens
from server.fused.weights import F32, NotFused, Weights

Score = Callable[[Own], F32]

# Candidates at a time: DSFM in chunks of 50, 125, 250, 500 takes 2.60, 2.22, 2.16, 2.08 ms for 500.
CHUNK = 500


class _Begins(Protocol):
    def begin(self, shared_SE: F32, domain: int, vectors_DK: F32 | None) -> Score: ...


class FusedRanker:
    """A ranker by its file's weights: `run` takes and gives what the stock graph takes and gives."""

    def __init__(self, weights: Weights) -> None:
        """Raises NotFused when the weights are not those of the architecture that the file names."""
        self._tokens = Tokens(weights)
        self._offset_D = weights.take("offset_D", weights.architecture.domains)
        self._model: _Begins = _KINDS[weights.architecture.kind](weights, self._tokens)

    def run(self, feeds: Feeds) -> F32:
        """p_click (C,). Raises BadInput for a code or a domain that the model does not have."""
        domain, vectors = self._tokens.domain(feeds), feeds.get("user_vectors")
        score = self._model.begin(self._tokens.of_request(feeds), domain, None if vectors is None else vectors[0])
        own = self._tokens.of_ads(feeds)
        chunks = [score(own[at : at + CHUNK]) for at in range(0, len(own), CHUNK)]
        logit_C = np.concatenate(chunks) if len(chunks) > 1 else chunks[0] if chunks else np.zeros(0, np.float32)
        return _sigmoid(logit_C + self._offset_D[domain])


class _SharedDNN:
    def __init__(self, weights: Weights, tokens: Tokens) -> None:
        self._first = First(_split(tokens), weights.linear("network.linears.0"))
        self._later = layers(weights, "network", first=1)

    def begin(self, shared_SE: F32, domain: int, vectors_DK: F32 | None) -> Score:
        share = self._first.begin(shared_SE)
        return lambda own: _finish(rectified(self._first(own.tokens_CFE), share), self._later)


class _DSFM:
    def __init__(self, weights: Weights, tokens: Tokens) -> None:
        self._memory = Memory(weights, tokens.shared, tokens.own, tokens.width)

    def begin(self, shared_SE: F32, domain: int, vectors_DK: F32 | None) -> Score:
        return self._memory.begin(shared_SE)


class _DFEI:
    def __init__(self, weights: Weights, tokens: Tokens) -> None:
        self._features = DomainFeatures(weights, _split(tokens), beside="shared.linears.0")
        self._shared = layers(weights, "shared", first=1)
        reads = ["shared", "u", *self._features.reads]
        self._heads = [_Head(weights, f"heads.towers.{domain}", reads) for domain in range(weights.architecture.domains)]

    def begin(self, shared_SE: F32, domain: int, vectors_DK: F32 | None) -> Score:
        asked = self._features.begin(domain, shared_SE, vectors_DK)
        head = self._heads[domain].begin(asked.own_K)

        def score(own: Own) -> F32:
            s, u, z = asked(own.tokens_CFE)
            for weight, bias in self._shared:
                s = rectified(s @ weight, bias)
            return head({"shared": s, "u": u, "z": z})

        return score


class _DSFMDFEI:
    def __init__(self, weights: Weights, tokens: Tokens) -> None:
        of, width = weights.architecture, tokens.width
        self._features = DomainFeatures(weights, _split(tokens))
        self._heads = [_Head(weights, f"heads.towers.{domain}", ["u", *of.reads]) for domain in range(of.domains)]
        self._token: dict[str, Layer] = {}
        for number, name in enumerate(of.reads):
            weight, bias = weights.linear(f"tokens.{number}", self._features.width, width)
            self._token[name] = np.ascontiguousarray(weight.T), bias
        place = {name: tokens.count + number for number, name in enumerate(of.reads)}
        shared = [*tokens.shared, *([place["v_ud"]] if "v_ud" in place else [])]
        own = [*tokens.own, *([place["z"]] if "z" in place else [])]
        self._memory = Memory(weights, shared, own, width)

    def begin(self, shared_SE: F32, domain: int, vectors_DK: F32 | None) -> Score:
        asked = self._features.begin(domain, shared_SE, vectors_DK)
        head = self._heads[domain].begin(asked.own_K)
        if "v_ud" in self._token:
            weight, bias = self._token["v_ud"]
            shared_SE = np.concatenate([shared_SE, (asked.own_K @ weight + bias)[None]])
        memory = self._memory.begin(shared_SE)

        def score(own: Own) -> F32:
            _, u, z = asked(own.tokens_CFE)
            if z is not None:
                weight, bias = self._token["z"]
                own = own.followed_by(z @ weight + bias)
            out: F32 = memory(own) + head({"u": u, "z": z})
            return out

        return score


class _PEPNet:
    """The network's first layer and the first layers of its gates read the gated tokens, and the gates the ungated ids as well:
    one product of [gated tokens; ad id's token], the user id's share being the request's."""

    def __init__(self, weights: Weights, tokens: Tokens) -> None:
        of, width = weights.architecture, tokens.width
        domain = tokens.count - 1
        shared, own = tokens.shared[:-1], tokens.own
        if not of.domain_token or len(of.priors) != 2 or of.priors[0] not in shared or of.priors[1] not in own:
            raise NotFused("PEPNet's gates read other tokens than the domain and the ids of user and ad")
        self._user, self._ad = shared.index(of.priors[0]), own.index(of.priors[1])
        gated = domain * width
        order = np.array([*shared, *own])  # gated tokens stand here with the shared ones first
        columns = (order[:, None] * width + np.arange(width)).reshape(-1)
        after_domain = Split([0, *(1 + one for one in shared)], [1 + one for one in own], width)
        self._gate_first = First(after_domain, weights.linear("embedding_gate.linears.0", width + gated))
        ((weight, bias),) = layers(weights, "embedding_gate", first=1)
        self._gate_last = np.ascontiguousarray(weight[:, columns]), np.ascontiguousarray(bias[columns])
        self._later = layers(weights, "network", first=1)
        names = [f"hidden_gates.{layer}" for layer in range(len(self._later))]
        self._gates = [layers(weights, name, first=1)[0] for name in names]
        first, bias = weights.linear("network.linears.0", gated)
        asking = [weights.linear(f"{name}.linears.0", 2 * width + gated) for name in names]
        gates = np.concatenate([one for one, _ in asking])
        unread = np.zeros((len(first), width), np.float32)  # the network itself reads no ungated id
        of_tokens = np.concatenate([first, gates[:, 2 * width :]])[:, columns]
        of_ad = np.concatenate([unread, gates[:, width : 2 * width]])
        self._joint = np.ascontiguousarray(np.concatenate([of_tokens, of_ad], axis=1).T)
        self._of_user = np.ascontiguousarray(np.concatenate([unread, gates[:, :width]]).T)
        self._bias, self._hidden = np.concatenate([bias, *(one for _, one in asking)]), len(bias)

    def begin(self, shared_SE: F32, domain: int, vectors_DK: F32 | None) -> Score:
        user_SE = shared_SE[:-1]
        opens = self._gate_first.begin(np.concatenate([shared_SE[-1:], user_SE]))
        share = self._bias + user_SE[self._user] @ self._of_user

        def score(own: Own) -> F32:
            own_CFE = own.tokens_CFE
            x = np.empty((len(own_CFE), len(self._joint)), np.float32)
            gated = user_SE.size + own_CFE[0].size
            x[:, : user_SE.size], x[:, user_SE.size : gated] = user_SE.reshape(-1), own_CFE.reshape(len(x), -1)
            x[:, gated:] = own_CFE[:, self._ad]
            kernels.gate(x, rectified(self._gate_first(own_CFE), opens) @ self._gate_last[0], self._gate_last[1], 2.0)
            joint = rectified(x @ self._joint, share)
            at, width, x = self._hidden, self._hidden, joint
            for (weight, bias), (following, following_bias) in zip(self._gates, self._later, strict=True):
                kernels.gate(x, joint[:, at : at + len(weight)] @ weight, bias, 2.0)
                at += len(weight)
                x = x[:, :width] @ following
                width = x.shape[1]
                if width > 1:
                    kernels.rectify(x, following_bias, width)
            out: F32 = x[:, 0] + self._later[-1][1]
            return out

        return score


class _Head:
    """DFEI's head of one domain over parts side by side; v_ud is the request's."""

    def __init__(self, weights: Weights, name: str, reads: list[str]) -> None:
        weight, self._bias = weights.linear(f"{name}.linears.0")
        (self._last,) = layers(weights, name, first=1)
        if weight.shape[1] % len(reads):
            raise NotFused(f"{name!r} reads {weight.shape[1]} numbers, not {len(reads)} vectors of one width")
        parts = np.split(weight, len(reads), axis=1)
        self._part = {one: np.ascontiguousarray(part.T) for one, part in zip(reads, parts, strict=True)}

    def begin(self, own_K: F32) -> Callable[[dict[str, Any]], F32]:
        share = self._bias + own_K @ self._part["v_ud"] if "v_ud" in self._part else self._bias

        def head(read: dict[str, Any]) -> F32:
            wide = sum(read[name] @ weight for name, weight in self._part.items() if name != "v_ud")
            return last(rectified(wide, share), self._last)

        return head


def _split(tokens: Tokens) -> Split:
    return Split(tokens.shared, tokens.own, tokens.width)


def _finish(x_CH: F32, later: list[Layer]) -> F32:
    for weight, bias in later[:-1]:
        x_CH = rectified(x_CH @ weight, bias)
    return last(x_CH, later[-1])


def _sigmoid(x_C: F32) -> F32:
    small = np.exp(-np.abs(x_C))
    out: F32 = np.where(x_C >= 0, np.float32(1.0), small) / (1 + small)
    return out


_KINDS: dict[str, Callable[[Weights, Tokens], _Begins]] = {
    "shared_dnn": _SharedDNN,
    "dsfm": _DSFM,
    "dfei": _DFEI,
    "dsfm_dfei": _DSFMDFEI,
    "pepnet": _PEPNet,
}
