"""The loops that NumPy has no fast word for, compiled by Numba with fixed signatures: what is not float32 in C order is refused,
never recompiled in the middle of a request.

One idea each: pool a sequence; add a bias and rectify; phi; one step of attention; soft choices. Matrix
products stay with BLAS. Shape suffixes: C candidates, F tokens of one kind, E token width, H units, A attention width d'.

np.exp inside a compiled loop costs 18 times the polynomial of `_exp2`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from indexer.compiler import compiled

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


@compiled("b1(i4[:,::1], i8[::1], i8[::1], i8[::1], i4[:,::1])")
def table_rows(codes_CN, columns_I, offsets_I, sizes_I, rows_CI):
    """Fill rows_CI with the rows of the embedding that the read codes stand for. False when one is outside its field's table."""
    for c in range(rows_CI.shape[0]):
        for i in range(rows_CI.shape[1]):
            code = np.int64(codes_CN[c, columns_I[i]])
            if code < 0 or code >= sizes_I[i]:
                return False
            rows_CI[c, i] = code + offsets_I[i]
    return True


@compiled("i8(i4[:,::1], i8[::1], i4[::1], i8[:,::1], i8[::1])")
def distinct(rows_CG, slot_G, seen, which_CF, first_N):
    """Number tokens alike that are the same row of a small table: which_CF and first_N as in `group`, the count is returned. Row
    r of field g stands in seen[r + slot_G[g]] (all -1 before); where that is negative, and in the tokens after the fields,
    nothing is compared."""
    count = 0
    for c in range(which_CF.shape[0]):
        for f in range(which_CF.shape[1]):
            slot = np.int64(-1)
            if f < rows_CG.shape[1]:
                slot = rows_CG[c, f] + slot_G[f]
            if slot >= 0 and seen[slot] >= 0:
                which_CF[c, f] = seen[slot]
                continue
            if slot >= 0:
                seen[slot] = count
            which_CF[c, f] = count
            first_N[count] = c * which_CF.shape[1] + f
            count += 1
    return count


@compiled("void(f4[:,::1], i4[:,::1], i8[::1], i8[::1], i8, f4[:,:,::1])")
def pool(table_VE, rows_CI, offsets, lengths, scalars, tokens_CFE):
    """Fill the tokens from `scalars` on, as many as have a length: the mean of a sequence's rows without its padding, which is
    the first row of its table."""
    for c in range(rows_CI.shape[0]):
        at = scalars
        for f in range(scalars, len(lengths)):
            kept = 0
            for e in range(table_VE.shape[1]):
                tokens_CFE[c, f, e] = f32(0.0)
            for _ in range(lengths[f]):
                if rows_CI[c, at] != offsets[at]:
                    kept += 1
                    for e in range(table_VE.shape[1]):
                        tokens_CFE[c, f, e] += table_VE[rows_CI[c, at], e]
                at += 1
            for e in range(table_VE.shape[1]):
                tokens_CFE[c, f, e] /= f32(max(kept, 1))


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


def grouped(bits_CN: Any) -> tuple[Any, Any, int]:
    """which_C, first_C and their count of int32 rows (see group)."""
    count = len(bits_CN)
    which_C, first_C = np.empty(count, np.int64), np.empty(count, np.int64)
    return which_C, first_C, group(bits_CN, which_C, first_C, np.full(1 << (2 * count).bit_length(), -1, np.int64))


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


@compiled("void(f4[:,:,::1], f4[:,::1], i8[:,::1], f4[:,:,::1], f4[:,:,::1], i8[::1])")
def read_own(read_CFE1, query_NA, token_CF, key_RJA, value_RJE, which_C):
    """Add to what candidates' own tokens read of the common part what they read of the J tokens of their memory. query_NA: of
    distinct tokens; token_CF: which one a candidate's is."""
    width = value_RJE.shape[2]
    for c in range(read_CFE1.shape[0]):
        r = which_C[c]
        for f in range(read_CFE1.shape[1]):
            n = token_CF[c, f]
            for j in range(key_RJA.shape[1]):
                weight = f32(0.0)
                for a in range(key_RJA.shape[2]):
                    weight += query_NA[n, a] * key_RJA[r, j, a]
                read_CFE1[c, f, width] += weight
                for e in range(width):
                    read_CFE1[c, f, e] += weight * value_RJE[r, j, e]


@compiled("void(f4[:,::1], f4[:,::1], f4[::1])")
def add_both(x_NE, other_NE, bias_E):
    """x += other + bias in place."""
    for n in range(x_NE.shape[0]):
        for e in range(x_NE.shape[1]):
            x_NE[n, e] += other_NE[n, e] + bias_E[e]


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
