"""DSFM's retriever between layers as a function of one number, once a request.

Its tokens are single units without positions, so what a unit reads depends on its own activation z >= 0 and on its memory's sums
alone: G(z) = sum_a phi(q_a z) s_a / sum_a phi(q_a z) t_a, one smooth function a memory. It is computed at 16 Chebyshev points of
[0, the largest z] and read as the polynomial through them: nothing is looked up, so the loop vectorises everywhere, and the
points cost the same for 100 units or a million. Where the polynomial's last coefficients do not vanish (steep queries over a long
range), or are no numbers, every unit is read exactly; so it is where few candidates read each of many memories.

G is steep near 0 and flat beyond: the polynomial's variable is t = 2 b z / (largest + (b - 1) z) - 1 with a bend b, under which
exp(-q z) needs a third of the degree. The bends are tried in turn.

The feed-forward layer's relus are linear but where one bends within what can be found. Attention is a mean of values, so that
range is known, and only those relus are computed (`kinks`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from server.fused import hidden_kernels as kernels
from server.fused.hidden_kernels import POINTS
from server.fused.weights import F32, NotFused, Weights

Rows = np.ndarray[Any, np.dtype[np.int64]]

BENDS = (4.0, 16.0)
# Of G's largest possible value, what the last three coefficients may come to: float32 sums lose more.
_TAIL = 1e-7
# A polynomial takes as long as it saves on this many units of its memory.
_UNITS = 400


class HiddenRetriever:
    """Tokens of width 1. Lanes are ordered by sign, once for the keys and once for the queries (see hidden_sums); the
    feed-forward layer's are padded to a multiple of four with lanes that add nothing."""

    def __init__(self, weights: Weights, name: str) -> None:
        key_A, query_A = (weights.take(f"{name}.{one}.weight", None, 1)[:, 0] for one in ("key", "query"))
        lanes = len(key_A)
        if len(query_A) != lanes:
            raise NotFused(f"{name!r} asks in {len(query_A)} lanes and keeps {lanes}")
        output, value = weights.take(f"{name}.output.weight", 1, lanes), weights.take(f"{name}.value.weight", lanes, 1)
        self._value = np.float32((output @ value)[0, 0])
        by_key, by_query = np.argsort(key_A >= 0, kind="stable"), np.argsort(query_A >= 0, kind="stable")
        self._keys = key_A[by_key], int((key_A < 0).sum())
        self._queries = query_A[by_query], int((query_A < 0).sum())
        self._key_to_query = np.argsort(by_key)[by_query]
        widen, widen_bias = weights.linear(f"{name}.widen", 1)
        narrow, narrow_bias = weights.linear(f"{name}.narrow", len(widen_bias), 1)
        padding = (0, -len(widen_bias) % 4)
        self._widen = tuple(np.pad(one, padding) for one in (widen[:, 0], widen_bias, narrow[0]))
        self._narrow_bias = np.float32(narrow_bias[0])

    def remember(self, unit_RH: F32) -> Remembered:
        """What R memories of rectified units hold."""
        keys, negative = self._keys
        sums_R2A = np.empty((len(unit_RH), 2, len(keys)), dtype=np.float32)
        kernels.hidden_sums(unit_RH, keys, negative, self._value, sums_R2A)
        farthest = float(self._value) * float(unit_RH.max(initial=0.0))
        return Remembered(self, sums_R2A.take(self._key_to_query, axis=2), farthest)


class Remembered:
    """The memories of one request. farthest: attention is a mean of values, all of which lie between 0 and this."""

    def __init__(self, of: HiddenRetriever, sums_R2A: F32, farthest: float) -> None:
        self._of, self._sums_R2A, self._farthest = of, sums_R2A, farthest

    def read(self, x_CH: F32, bias_RH: F32, which_C: Rows) -> F32:
        """From the layer's output before bias and relu to what the next layer reads, in place. bias_RH: one, or one a memory;
        which_C: every candidate's memory."""
        of, largest = self._of, max(float(x_CH.max()) + float(bias_RH.max()), 1e-6)
        power_RJ = np.empty((len(self._sums_R2A), POINTS), np.float32)
        for bend in BENDS if x_CH.size >= _UNITS * len(power_RJ) else ():
            if kernels.fit(of._queries[0], self._sums_R2A, largest, bend, power_RJ) <= _TAIL * abs(self._farthest):
                break
        else:
            kernels.read_hidden(x_CH, bias_RH, which_C, *of._queries, self._sums_R2A, *of._widen, of._narrow_bias)
            return x_CH
        kink_2L = np.zeros((2, len(of._widen[0])), np.float32)
        low, high = min(self._farthest, 0.0), largest + max(self._farthest, 0.0)
        kinks, slope, intercept = kernels.fold(*of._widen, low, high, kink_2L)
        line = 1.0 + slope, float(of._narrow_bias) + intercept
        kernels.read_smooth(x_CH, bias_RH, which_C, power_RJ, largest, bend, kink_2L, (kinks + 1) // 2, *line)
        return x_CH
