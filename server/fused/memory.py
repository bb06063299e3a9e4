"""DSFM's two towers and their retrievers, split into what a request shares and what a candidate adds.

A candidate's memory is decided by its sensitive features alone: there are as many memories as candidates differ in those (`R`),
one where all of them are the user's, the context's or the domain's. Per memory, not per candidate: the extractor, the sums of
every attention, and all shared tokens behind the embedding retriever with their share of the network's first layer. What the
candidate's own sensitive features (J of them) add to a memory is one term each, for attention's sums are linear in the memory's
tokens. S shared, F own tokens; see tokens.py and parts.py for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from server.fused import kernels
from server.fused.hidden import HiddenRetriever, Remembered
from server.fused.parts import First, Rows, TokenRetriever, last, layers, rectified
from server.fused.tokens import Own, Split
from server.fused.weights import F32, NotFused, Weights

# From a candidate's own tokens and its memories' own tokens to the first layer's output before bias and relu, and that bias.
_Read = Callable[[Own, F32, Rows], tuple[F32, F32]]


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

    def begin(self, shared_SE: F32) -> Callable[[Own], F32]:
        share = self._extractor_first.begin(shared_SE[self._sensitive_shared])
        read = self._read_tokens(shared_SE)
        alone = None if self._sensitive_own else self._extract(np.maximum(share, 0)[None])

        def score(own: Own) -> F32:
            memory_RJE, which_C = self._memories(own.tokens_CFE)
            remembered, auxiliary_R = alone or self._extract(rectified(self._extractor_first(memory_RJE), share))
            x, bias_RH = read(own, memory_RJE, which_C)
            for layer, (weight, following) in enumerate(self._later):
                if self._hidden:
                    x = remembered[layer].read(x, bias_RH, which_C)
                else:
                    x = np.maximum(x + (bias_RH[which_C] if len(bias_RH) > 1 else bias_RH), 0)
                if layer < len(self._later) - 1:
                    x, bias_RH = x @ weight, following[None]
            return last(x, self._later[-1]) + auxiliary_R[which_C]

        return score

    def _memories(self, own_CFE: F32) -> tuple[F32, Rows]:
        """memory_RJE and which_C: the own sensitive tokens of each memory, and every candidate's memory."""
        count = len(own_CFE)
        if not self._sensitive_own:
            return np.empty((1, 0, self._width), np.float32), np.zeros(count, np.int64)
        tokens_CJE = own_CFE[:, self._sensitive_own]
        which_C, first_C, memories = kernels.grouped(tokens_CJE.reshape(count, -1).view(np.int32))
        return tokens_CJE[first_C[:memories]], which_C

    def _extract(self, e_RH: F32) -> tuple[list[Remembered], F32]:
        """Each hidden retriever's memories, and the extractor's logit (R,), from its first hidden layer."""
        remembered: list[Remembered] = []
        for layer in range(len(self._later)):
            if self._hidden:
                remembered.append(self._hidden[layer].remember(e_RH))
            if layer < len(self._later) - 1:
                weight, bias = self._extractor[layer]
                e_RH = rectified(e_RH @ weight, bias)
        return remembered, last(e_RH, self._extractor[-1]) if self._auxiliary else np.zeros(len(e_RH), np.float32)

    def _read_tokens(self, shared_SE: F32) -> _Read:
        retriever, first = self._embedding, self._first
        if retriever is None:
            share_1H = first.begin(shared_SE)[None]
            return lambda own, memory_RJE, which_C: (first(own.tokens_CFE), share_1H)
        common_AE1 = retriever.remember(shared_SE[self._sensitive_shared])
        query_SA = retriever.query(shared_SE)
        read_SE1 = query_SA @ common_AE1

        def shares(key_RJA: F32, value_RJE: F32) -> F32:
            """The shared tokens' share of the first layer, bias included, for each memory: (R, H)."""
            memories, own, lanes = key_RJA.shape
            token_RSE = np.repeat(shared_SE[None], memories, axis=0)
            weight_RJS = (key_RJA.reshape(-1, lanes) @ query_SA.T).reshape(memories, own, len(shared_SE))
            kernels.add_shared_read(token_RSE, read_SE1, weight_RJS, value_RJE)
            return first.begin_each(retriever.fed(token_RSE.reshape(-1, self._width)).reshape(token_RSE.shape))

        nothing = np.empty((1, 0, query_SA.shape[1]), np.float32), np.empty((1, 0, self._width), np.float32)
        alone_1H = None if self._sensitive_own else shares(*nothing)

        def read(own: Own, memory_RJE: F32, which_C: Rows) -> tuple[F32, F32]:
            token_NE, token_CF = own.distinct()
            query_NA = retriever.query(token_NE)
            read_NE1 = query_NA @ common_AE1
            if alone_1H is not None:
                kernels.add_read(token_NE, read_NE1)
                return first(retriever.fed(token_NE).take(token_CF, axis=0)), alone_1H
            memory_ME = memory_RJE.reshape(-1, self._width)
            key_RJA = retriever.key(memory_ME).reshape(*memory_RJE.shape[:2], -1)
            value_RJE = retriever.value(memory_ME).reshape(memory_RJE.shape)
            read_CFE1, token_ME = read_NE1.take(token_CF, axis=0), own.tokens_CFE.reshape(-1, self._width).copy()
            kernels.read_own(read_CFE1, query_NA, token_CF, key_RJA, value_RJE, which_C)
            kernels.add_read(token_ME, read_CFE1.reshape(len(token_ME), -1))
            return first(retriever.fed(token_ME).reshape(own.tokens_CFE.shape)), shares(key_RJA, value_RJE)

        return read
