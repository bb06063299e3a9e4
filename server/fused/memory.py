"""DSFM's two towers and their retrievers, split into what a request shares and what a candidate adds.

Where every sensitive feature is the user's, the context's or the domain's, the extractor and all memories are computed once a
request, and so are the shared tokens behind the embedding retriever: a candidate's own tokens alone go through the network's
first layer. Where some sensitive features are the ad's, each of them adds one term to the attention's sums (they are linear
in the memory's tokens), and the extractor runs for every candidate. S shared, F own, N all tokens; see tokens.py and parts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from server.fused import kernels
from server.fused.parts import First, HiddenRetriever, TokenRetriever, last, layers, rectified
from server.fused.tokens import Split
from server.fused.weights import F32, NotFused, Weights


class Memory:
    def __init__(self, weights: Weights, shared: Sequence[int], own: Sequence[int], width: int) -> None:
        """shared, own: token numbers as the base tower counts them, in the order in which tokens will be given."""
        of = weights.architecture
        if not of.sensitive or not set(of.sensitive) <= {*shared, *own}:
            raise NotFused(f"sensitive tokens {of.sensitive} are not among the model's")
        self._width = width
        self._sensitive_shared = [shared.index(one) for one in of.sensitive if one in shared]
        self._sensitive_own = [own.index(one) for one in of.sensitive if one in own]
        self._first = First(Split(shared, own, width), weights.linear("memory.base.linears.0"))
        self._whole = self._first.whole
        self._later = layers(weights, "memory.base", first=1)
        shared_places, own_places = ([at for at, one in enumerate(of.sensitive) if one in side] for side in (shared, own))
        self._extractor_first = First(Split(shared_places, own_places, width), weights.linear("memory.extractor.linears.0"))
        self._extractor = layers(weights, "memory.extractor", first=1)
        self._auxiliary = of.auxiliary_logit
        hidden = len(self._later)
        if len(self._extractor) != hidden - (not of.auxiliary_logit):
            raise NotFused("base and extractor of the memory have different depths")
        self._embedding = TokenRetriever(weights, "memory.embedding_retriever", width) if of.embedding_retriever else None
        names = [f"memory.hidden_retrievers.{layer}" for layer in range(hidden)] if of.hidden_retrievers else []
        self._hidden = [HiddenRetriever(weights, name) for name in names]

    def begin(self, shared_SE: F32) -> Callable[[F32], F32]:
        share = self._extractor_first.begin(shared_SE[self._sensitive_shared])
        own = bool(self._sensitive_own)
        read = self._read_tokens(shared_SE)
        fixed = None if own else self._extract(rectified(share[None].copy(), np.zeros_like(share)))

        def score(own_CFE: F32) -> F32:
            if fixed is None:
                sums, auxiliary = self._extract(rectified(self._extractor_first(own_CFE[:, self._sensitive_own]), share))
            else:
                sums, auxiliary = fixed
            x, bias = read(own_CFE)
            for layer, (weight, following) in enumerate(self._later):
                x = self._hidden[layer].read(x, bias, sums[layer]) if self._hidden else rectified(x, bias)
                if layer < len(self._later) - 1:
                    x, bias = x @ weight, following
            return last(x, self._later[-1]) + auxiliary

        return score

    def _extract(self, e_RH: F32) -> tuple[list[F32], F32]:
        """Each hidden retriever's memory, and the extractor's logit, from its first hidden layer."""
        sums: list[F32] = []
        for layer in range(len(self._later)):
            if self._hidden:
                sums.append(self._hidden[layer].remember(e_RH))
            if layer < len(self._later) - 1:
                weight, bias = self._extractor[layer]
                e_RH = rectified(e_RH @ weight, bias)
        return sums, last(e_RH, self._extractor[-1]) if self._auxiliary else np.zeros(1, np.float32)

    def _read_tokens(self, shared_SE: F32) -> Callable[[F32], tuple[F32, F32]]:
        """From own tokens to the first layer's output before its bias and relu, and that bias."""
        retriever, first = self._embedding, self._first
        if retriever is None:
            share = first.begin(shared_SE)
            return lambda own_CFE: (first(own_CFE), share)
        memory_AE1 = retriever.remember(shared_SE[self._sensitive_shared])
        if not self._sensitive_own:
            share = first.begin(retriever.read(shared_SE, memory_AE1))
            return lambda own_CFE: (
                first(retriever.read(own_CFE.reshape(-1, self._width), memory_AE1).reshape(own_CFE.shape)),
                share,
            )
        query_SA = retriever.query(shared_SE)
        read_SE1 = query_SA @ memory_AE1
        whole = self._whole

        def read(own_CFE: F32) -> tuple[F32, F32]:
            count, own, width = own_CFE.shape
            flat_NE = own_CFE.reshape(-1, width)
            query_NA = retriever.query(flat_NE)
            memory_NE = own_CFE[:, self._sensitive_own].reshape(-1, width)
            key_NA = retriever.key(memory_NE)
            found_CNE = np.empty((count, len(shared_SE) + own, width), np.float32)
            found_CNE[:, : len(shared_SE)] = shared_SE
            kernels.add_own_memory(
                read_SE1,
                (key_NA @ query_SA.T).reshape(count, -1, len(shared_SE)),
                query_NA.reshape(count, own, -1),
                key_NA.reshape(count, len(self._sensitive_own), -1),
                retriever.value(memory_NE).reshape(count, -1, width),
                (query_NA @ memory_AE1).reshape(count, own, -1),
                own_CFE,
                found_CNE,
            )
            fed = retriever.fed(found_CNE.reshape(-1, width)).reshape(count, -1)
            return fed @ whole, first.bias

        return read
