"""The loops of DSFM's retriever between layers, as in kernels.py: what a memory holds, and the reading of it, exactly
(`read_hidden`) or by a polynomial (`fit`, `fold`, `read_smooth`; hidden.py says why).
R memories, K points, J coefficients, A lanes, L kinks.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev

from indexer.compiler import compiled
from server.fused.kernels import LOG2_E, _exp2

f32 = np.float32

POINTS = 16  # of the polynomial, whose coefficients `read_smooth` names one by one
_angle_K = np.pi * (np.arange(POINTS) + 0.5) / POINTS
_share_K = 0.5 * (np.cos(_angle_K) + 1)  # the points, in [0, 1]
_chebyshev_JK = np.cos(np.arange(POINTS)[:, None] * _angle_K) * (2 - (np.arange(POINTS)[:, None] == 0)) / POINTS
# From values at the points: coefficients of 1, t, t^2, ..., then the last three of the Chebyshev polynomials.
_fit_KJ = np.concatenate([np.zeros((POINTS, POINTS)), _chebyshev_JK[-3:].T], axis=1)
for _j in range(POINTS):
    _fit_KJ[:, : _j + 1] += np.outer(_chebyshev_JK[_j], chebyshev.cheb2poly(np.eye(POINTS)[_j, : _j + 1]))


@compiled("f8(f4[::1], f4[:,:,::1], f8, f8, f4[:,::1])")
def fit(query_A, sums_R2A, largest, bend, power_RJ):
    """Fill the polynomials' coefficients, one polynomial a memory; returns the sum of the last three Chebyshev coefficients, of
    the memory where it is largest, or NaN where one is."""
    phi_AK, g_K, divisor_K = np.empty((len(query_A), POINTS)), np.empty(POINTS), np.empty(POINTS)
    for a in range(len(query_A)):
        for k in range(POINTS):
            x = query_A[a] * largest * _share_K[k] / (bend - (bend - 1.0) * _share_K[k])
            phi_AK[a, k] = 1.0 + x if x >= 0.0 else np.exp(x)
    worst, found_J = 0.0, np.empty(_fit_KJ.shape[1])
    for r in range(len(sums_R2A)):
        g_K[:], divisor_K[:], found_J[:] = 0.0, 0.0, 0.0
        for a in range(len(query_A)):
            number, divisor = np.float64(sums_R2A[r, 0, a]), np.float64(sums_R2A[r, 1, a])
            for k in range(POINTS):
                g_K[k] += phi_AK[a, k] * number
                divisor_K[k] += phi_AK[a, k] * divisor
        for k in range(POINTS):
            g = g_K[k] / divisor_K[k]
            for j in range(len(found_J)):
                found_J[j] += g * _fit_KJ[k, j]
        tail = 0.0
        for j in range(POINTS):
            power_RJ[r, j] = found_J[j]
        for j in range(POINTS, len(found_J)):
            tail += abs(found_J[j])
        if tail != tail:
            return tail
        worst = max(worst, tail)
    return worst


@compiled("Tuple((i8, f8, f8))(f4[::1], f4[::1], f4[::1], f8, f8, f4[:,::1])")
def fold(widen_A, widen_bias_A, narrow_A, low, high, kink_2L):
    """sum_a v_a relu(w_a f + b_a) for low <= f <= high as slope f + intercept + sum_l step_l max(f, kink_l). kink_2L: zeros,
    filled with kinks and steps. Returns how many, slope and intercept."""
    kinks, slope, intercept = 0, 0.0, 0.0
    for a in range(len(widen_A)):
        w, b, v = np.float64(widen_A[a]), np.float64(widen_bias_A[a]), np.float64(narrow_A[a])
        first, last = w * low + b, w * high + b
        if first <= 0.0 and last <= 0.0:
            continue
        bends = first < 0.0 or last < 0.0
        if not bends or w < 0.0:
            slope += v * w
            intercept += v * b
        if bends:
            step, kink = v * abs(w), -b / w
            intercept -= step * kink
            kink_2L[0, kinks], kink_2L[1, kinks] = kink, step
            kinks += 1
    return kinks, slope, intercept


@compiled("void(f4[:,::1], f4[:,::1], i8[::1], f4[:,::1], f4, f4, f4[:,::1], i8, f4, f4)")
def read_smooth(x_CH, bias_RH, which_C, power_RJ, largest, bend, kink_2L, pairs, slope, intercept):
    """x <- FFN(Za) + Za of Za = Z + G(Z), Z = relu(x + bias), in place; G by its memory's polynomial, the FFN as `fold` gives it,
    its first kinks, two at a time."""
    width = x_CH.shape[1]
    found_H = np.empty(width, f32)
    own_bias = bias_RH.shape[0] > 1
    twice, rest = f32(2.0) * bend, bend - f32(1.0)
    for c in range(x_CH.shape[0]):
        r = which_C[c]
        b = r if own_bias else 0
        p = power_RJ[r]
        p0, p1, p2, p3, p4, p5, p6, p7 = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
        p8, p9, p10, p11, p12, p13, p14, p15 = p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]
        for h in range(width):
            z = max(x_CH[c, h] + bias_RH[b, h], f32(0.0))
            t = twice * z / (largest + rest * z) - f32(1.0)
            s = t * t
            even = ((((((p14 * s + p12) * s + p10) * s + p8) * s + p6) * s + p4) * s + p2) * s + p0
            odd = ((((((p15 * s + p13) * s + p11) * s + p9) * s + p7) * s + p5) * s + p3) * s + p1
            found = z + (even + odd * t)
            found_H[h] = found
            x_CH[c, h] = found * slope + intercept
        for pair in range(pairs):
            k, m = kink_2L[0, 2 * pair], kink_2L[0, 2 * pair + 1]
            v, w = kink_2L[1, 2 * pair], kink_2L[1, 2 * pair + 1]
            for h in range(width):
                x_CH[c, h] += max(found_H[h], k) * v + max(found_H[h], m) * w


@compiled("void(f4[:,::1], f4[::1], i8, f4, f4[:,:,::1])")
def hidden_sums(unit_RH, key_A, negative, value, sums_R2A):
    """Per row and lane a: sum_j phi(k_a e_j) e_j value, and sum_j phi(k_a e_j). Units are rectified, e_j >= 0, so phi(k_a e_j) is
    1 + k_a e_j where k_a >= 0: those sums need sum e and sum e^2 alone, and no exponential. The first `negative` lanes are the
    ones with k_a < 0."""
    width = unit_RH.shape[1]
    for r in range(unit_RH.shape[0]):
        first, second = f32(0.0), f32(0.0)
        for h in range(width):
            first += unit_RH[r, h]
            second += unit_RH[r, h] * unit_RH[r, h]
        for a in range(negative, len(key_A)):
            sums_R2A[r, 0, a] = value * (first + key_A[a] * second)
            sums_R2A[r, 1, a] = f32(width) + key_A[a] * first
        for a in range(negative):
            key = key_A[a] * LOG2_E
            weighted, count = f32(0.0), f32(0.0)
            for h in range(width):
                weight = _exp2(key * unit_RH[r, h])
                weighted += weight * unit_RH[r, h]
                count += weight
            sums_R2A[r, 0, a] = value * weighted
            sums_R2A[r, 1, a] = count


@compiled("void(f4[:,::1], f4[:,::1], i8[::1], f4[::1], i8, f4[:,:,::1], f4[::1], f4[::1], f4[::1], f4)")
def read_hidden(x_CH, bias_RH, which_C, query_A, negative, sums_R2A, widen_A, widen_bias_A, narrow_A, narrow_bias):
    """x <- FFN(Za) + Za of Za = Z + attention, Z = relu(x + bias), tokens being single units; in place. Candidate c reads memory
    which[c]; bias_RH: one for all, or one a memory. Z >= 0, so only the first `negative` lanes, with q_a < 0, need an exponential
    (see hidden_sums); sums stand in the query's order of lanes. Lanes go four and two at a time: what is summed stays in
    registers that long."""
    width, lanes = x_CH.shape[1], len(query_A)
    number, divisor, done = np.empty(width, f32), np.empty(width, f32), np.empty(width, f32)
    own_bias = bias_RH.shape[0] > 1
    for c in range(x_CH.shape[0]):
        r = which_C[c]
        b = r if own_bias else 0
        n0, n1, d0, d1 = f32(0.0), f32(0.0), f32(0.0), f32(0.0)
        for a in range(negative, lanes):
            n0 += sums_R2A[r, 0, a]
            n1 += sums_R2A[r, 0, a] * query_A[a]
            d0 += sums_R2A[r, 1, a]
            d1 += sums_R2A[r, 1, a] * query_A[a]
        for h in range(width):
            z = max(x_CH[c, h] + bias_RH[b, h], f32(0.0))
            x_CH[c, h] = z
            number[h] = n0 + n1 * z
            divisor[h] = d0 + d1 * z
        for pair in range(negative // 2):
            a, b = 2 * pair, 2 * pair + 1
            query, other = query_A[a] * LOG2_E, query_A[b] * LOG2_E
            s, t, u, v = sums_R2A[r, 0, a], sums_R2A[r, 1, a], sums_R2A[r, 0, b], sums_R2A[r, 1, b]
            for h in range(width):
                z = x_CH[c, h]
                weight, second = _exp2(query * z), _exp2(other * z)
                number[h] += weight * s + second * u
                divisor[h] += weight * t + second * v
        if negative % 2:
            a = negative - 1
            query, s, t = query_A[a] * LOG2_E, sums_R2A[r, 0, a], sums_R2A[r, 1, a]
            for h in range(width):
                weight = _exp2(query * x_CH[c, h])
                number[h] += weight * s
                divisor[h] += weight * t
        for h in range(width):
            found = x_CH[c, h] + number[h] / divisor[h]
            x_CH[c, h] = found
            done[h] = found + narrow_bias
        for four in range(len(widen_A) // 4):
            a = 4 * four
            w0, w1, w2, w3 = widen_A[a], widen_A[a + 1], widen_A[a + 2], widen_A[a + 3]
            b0, b1, b2, b3 = widen_bias_A[a], widen_bias_A[a + 1], widen_bias_A[a + 2], widen_bias_A[a + 3]
            v0, v1, v2, v3 = narrow_A[a], narrow_A[a + 1], narrow_A[a + 2], narrow_A[a + 3]
            for h in range(width):
                f = x_CH[c, h]
                left = max(f * w0 + b0, f32(0.0)) * v0 + max(f * w1 + b1, f32(0.0)) * v1
                right = max(f * w2 + b2, f32(0.0)) * v2 + max(f * w3 + b3, f32(0.0)) * v3
                done[h] += left + right
        for h in range(width):
            x_CH[c, h] = done[h]
