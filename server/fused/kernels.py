"""The loops that NumPy has no fast word for, compiled by Numba with fixed signatures: what is not float32 in C order is refused,
never recompiled in the middle of a request.

One idea each: look up tokens; add a bias and rectify; phi; one step of attention; a hidden retriever; soft choices. Matrix
products stay with BLAS. Shape suffixes: C candidates, F tokens of one kind, E token width, H units, A attention width d'.

np.exp inside a compiled loop costs 18 times the polynomial of `_exp2`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from server.fused.compiler import compiled

f32 = np.float32


LOG2_E = f32(1.4426950408889634)


@compiled(None, inline="always")
def _exp2(x: Any) -> Any:
    """2^x for x <= 0, within 1.2e-7 of it in relative terms: 2^n times a polynomial on [-1/2, 1/2] (Cephes' coefficients)."""
    x = max(x, f32(-126.0))
    n = np.floor(x + f32(0.5))
    r = x - n
    p = f32(1.535336188319500e-4)
    p = p * r + f32(1.339887440266574e-3)
    p = p * r + f32(9.618437357674640e-3)
    p = p * r + f32(5.550332471162809e-2)
    p = p * r + f32(2.402264791363012e-1)
    p = p * r + f32(6.931472028550421e-1)
    p = p * r + f32(1.0)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled("b1(f4[:,::1], i4[:,::1], i8[::1], i8[::1], i8[::1], i8[::1], i8, f4[:,:,::1])")
def look_up(table_VE, codes_CI, columns, offsets, sizes, lengths, scalars, tokens_CFE):
    """Fill the first len(lengths) tokens: a row of the table each, or (from token `scalars` on) the mean of the rows of a
    sequence without its padding. False when a code is outside its field's table."""
    for c in range(codes_CI.shape[0]):
        at = 0
        for f in range(len(lengths)):
            if f < scalars:
                code = np.int64(codes_CI[c, columns[at]])
                if code < 0 or code >= sizes[at]:
                    return False
                row = code + offsets[at]
                for e in range(table_VE.shape[1]):
                    tokens_CFE[c, f, e] = table_VE[row, e]
                at += 1
                continue
            kept = 0
            for e in range(table_VE.shape[1]):
                tokens_CFE[c, f, e] = f32(0.0)
            for _ in range(lengths[f]):
                code = np.int64(codes_CI[c, columns[at]])
                if code < 0 or code >= sizes[at]:
                    return False
                if code != 0:
                    kept += 1
                    for e in range(table_VE.shape[1]):
                        tokens_CFE[c, f, e] += table_VE[code + offsets[at], e]
                at += 1
            for e in range(table_VE.shape[1]):
                tokens_CFE[c, f, e] /= f32(max(kept, 1))
    return True


@compiled("void(f4[:,::1], f4[::1], i8)")
def rectify(x_CH, bias_H, width):
    """x + bias, and relu of the first `width` columns, in place."""
    for c in range(x_CH.shape[0]):
        for h in range(width):
            x_CH[c, h] = max(x_CH[c, h] + bias_H[h], f32(0.0))
        for h in range(width, x_CH.shape[1]):
            x_CH[c, h] += bias_H[h]


@compiled("void(f4[:,::1])")
def phi(x_NA):
    """elu + 1 in place."""
    flat = x_NA.reshape(x_NA.size)
    for i in range(flat.size):
        flat[i] = max(flat[i], f32(0.0)) + _exp2(LOG2_E * min(flat[i], f32(0.0)))


@compiled("void(f4[:,::1], f4[:,::1])")
def add_read(token_NE, read_NE1):
    """token += read[:E] / read[E] in place: the weighted mean that attention adds."""
    width = token_NE.shape[1]
    for n in range(token_NE.shape[0]):
        share = f32(1.0) / read_NE1[n, width]
        for e in range(width):
            token_NE[n, e] += read_NE1[n, e] * share


@compiled("i8(i4[:,::1], i8[::1], i8[::1], i8[::1])")
def group(bits_CN, which_C, first_C, slots):
    """Number equal rows alike: which_C is each row's group, first_C[:count] a row of each, count is returned. slots: all -1, a
    power of two of them, at least twice as many as rows: open addressing by a multiplicative hash."""
    count = 0
    for c in range(bits_CN.shape[0]):
        key = np.uint32(0)
        for n in range(bits_CN.shape[1]):
            key = np.uint32(np.uint32(key ^ np.uint32(bits_CN[c, n])) * np.uint32(2654435761))
            key ^= key >> np.uint32(15)
        slot = np.int64(key) & (len(slots) - 1)
        while slots[slot] >= 0:
            other = first_C[slots[slot]]
            same = True
            for n in range(bits_CN.shape[1]):
                same = same and bits_CN[c, n] == bits_CN[other, n]
            if same:
                break
            slot = (slot + 1) & (len(slots) - 1)
        if slots[slot] < 0:
            slots[slot] = count
            first_C[count] = c
            count += 1
        which_C[c] = slots[slot]
    return count


@compiled("void(f4[:,:,::1], f4[:,::1], f4[:,:,::1], f4[:,:,::1])")
def add_shared_read(token_RSE, read_SE1, weight_RJS, value_RJE):
    """Shared tokens after reading R memories, in place. read_SE1: what they read of the part that all memories have in common;
    weight_RJS: phi(Q_s) . phi(K_j) of the J tokens that a memory has of its own."""
    width = token_RSE.shape[2]
    for r in range(token_RSE.shape[0]):
        for s in range(token_RSE.shape[1]):
            total = read_SE1[s, width]
            for j in range(weight_RJS.shape[1]):
                total += weight_RJS[r, j, s]
            share = f32(1.0) / total
            for e in range(width):
                token_RSE[r, s, e] += read_SE1[s, e] * share
            for j in range(weight_RJS.shape[1]):
                weight = weight_RJS[r, j, s] * share
                for e in range(width):
                    token_RSE[r, s, e] += weight * value_RJE[r, j, e]


@compiled("void(f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], i8[::1])")
def read_own(read_CFE1, query_CFA, key_RJA, value_RJE, which_C):
    """Add to what candidates' own tokens read of the common part what they read of the J tokens of their memory."""
    width = value_RJE.shape[2]
    for c in range(read_CFE1.shape[0]):
        r = which_C[c]
        for f in range(read_CFE1.shape[1]):
            for j in range(key_RJA.shape[1]):
                weight = f32(0.0)
                for a in range(key_RJA.shape[2]):
                    weight += query_CFA[c, f, a] * key_RJA[r, j, a]
                read_CFE1[c, f, width] += weight
                for e in range(width):
                    read_CFE1[c, f, e] += weight * value_RJE[r, j, e]


@compiled("void(f4[:,::1], f4[:,::1], f4[::1])")
def add_both(x_NE, other_NE, bias_E):
    """x += other + bias in place."""
    for n in range(x_NE.shape[0]):
        for e in range(x_NE.shape[1]):
            x_NE[n, e] += other_NE[n, e] + bias_E[e]


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


@compiled("void(f4[:,::1])")
def softmax(x_CD):
    """Over the last axis, in place."""
    for c in range(x_CD.shape[0]):
        largest = x_CD[c, 0]
        for d in range(1, x_CD.shape[1]):
            largest = max(largest, x_CD[c, d])
        total = f32(0.0)
        for d in range(x_CD.shape[1]):
            x_CD[c, d] = _exp2(LOG2_E * (x_CD[c, d] - largest))
            total += x_CD[c, d]
        for d in range(x_CD.shape[1]):
            x_CD[c, d] /= total


@compiled("void(f4[:,::1], f4[:,::1], f4[::1], f4)")
def gate(x_CH, gate_CH, bias_H, scale):
    """x *= scale * sigmoid(gate + bias) in place, for as many of x's first columns as there are gates."""
    for c in range(x_CH.shape[0]):
        for h in range(gate_CH.shape[1]):
            y = gate_CH[c, h] + bias_H[h]
            small = _exp2(-LOG2_E * abs(y))
            x_CH[c, h] *= scale * (f32(1.0) if y >= f32(0.0) else small) / (f32(1.0) + small)
