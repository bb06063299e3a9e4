"""The compiled scan of one query over lists of 8-bit codes (coded.py): integer products, and a threshold that is always current.

Import after `compiler.configure`. What FAISS lacks is the rule by which it stops: a list is visited while ads of its own may
still be among the k best found so far.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import float32, int32, int64
from numba.core import cgutils
from numba.core.types import Array, uint8, void
from numba.core.types import int8 as byte
from numba.core.types import int16 as short
from numba.extending import intrinsic

from indexer.compiler import compiled

_BINS = 4096  # of scores; an ad's score has a deviation of about 250 of them at 64 dimensions
_LANES = 16  # of products
_ORDERS = 512  # of lists by their bound: which of nearly equal lists comes first is all the same


def _fixed(dtype: object, dimensions: int) -> Array:
    """Mapped arrays cannot be written."""
    return Array(dtype, dimensions, "C", readonly=True)


@intrinsic
def fetch(typing, array, row, byte_of_row):
    """Ask memory for the line that holds this byte of array[row], and do not wait: searches meet cold codes and rows."""

    def code(context, builder, signature, given):
        view = context.make_array(signature.args[0])(context, builder, given[0])
        stride = cgutils.unpack_tuple(builder, view.strides)[0]
        address = cgutils.pointer_add(builder, view.data, builder.add(builder.mul(given[1], stride), given[2]), cgutils.voidptr_t)
        flag = ir.IntType(32)
        takes = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, takes, "llvm.prefetch.p0")
        builder.call(prefetch, [address, flag(0), flag(3), flag(1)])  # to read, to keep, data
        return context.get_dummy_value()

    return void(array, int64, int64), code


@intrinsic(prefer_literal=True)
def coded_product(typing, codes_NW, row, query_W, width):
    """codes_NW[row] . query_W in int32, sixteen terms at a time: left to itself, the compiler takes eight."""
    count = width.literal_value

    def code(context, builder, signature, given):
        view = context.make_array(signature.args[0])(context, builder, given[0])
        query = context.make_array(signature.args[2])(context, builder, given[2])
        start = builder.gep(view.data, [builder.mul(given[1], ir.Constant(given[1].type, count))])
        wide, total = ir.VectorType(ir.IntType(32), _LANES), None
        for begin in range(0, count, _LANES):
            parts = []
            for data, bits in ((start, 8), (query.data, 16)):
                kind = ir.VectorType(ir.IntType(bits), _LANES)
                address = builder.bitcast(builder.gep(data, [ir.Constant(ir.IntType(64), begin)]), kind.as_pointer())
                parts.append(builder.sext(builder.load(address, align=1), wide))
            terms = builder.mul(*parts)
            total = terms if total is None else builder.add(total, terms)
        takes = ir.FunctionType(ir.IntType(32), [wide])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, takes, f"llvm.vector.reduce.add.v{_LANES}i32"), [total]
        )

    return int32(codes_NW, int64, query_W, width), code


@compiled(int64[::1](float32[::1]))
def by_bound(bound_L):
    """Lists by falling bound, equal to a 512th of their range: counted, not sorted."""
    top, bottom = bound_L.max(), bound_L.min()
    steps = float32(_ORDERS - 1) / (top - bottom) if top > bottom else float32(0)
    start = np.zeros(_ORDERS + 1, np.int64)
    for bound in bound_L:
        start[int64((top - bound) * steps) + 1] += 1
    for at in range(_ORDERS):
        start[at + 1] += start[at]
    order_L = np.empty(len(bound_L), np.int64)
    for one in range(len(bound_L)):
        at = int64((top - bound_L[one]) * steps)
        order_L[start[at]] = one
        start[at] += 1
    return order_L


@cache
def scan_of(width):
    """The scan of codes of `width` bytes, a constant in it: with one that it has to look up it takes half as long again."""

    @compiled(
        int64[::1](
            _fixed(byte, 2), _fixed(int32, 1), _fixed(int64, 1), float32[::1], float32[::1], short[::1], float32, float32,
            int64, _fixed(uint8, 1), _fixed(float32, 2), _fixed(float32, 1),
        ),
        alone=False,
    )  # fmt: skip
    def scan(codes_NW, row_N, start_L, middle_L, bound_L, query_W, scale, limit, k, eligible_N, vectors_NE, query_E):
        """Keys (index.py's, unsorted) of at least the k eligible ads whose codes score best; of all, where there are fewer.

        List l holds codes start_L[l] to start_L[l + 1]; a code scores middle_L[l] + scale * (code . query_W). bound_L: what a
        list's ads are taken to score at most; limit: what no score exceeds; eligible_N: empty for all.
        """
        score_N, found_N = np.empty(len(row_N), np.float32), np.empty(len(row_N), np.int32)
        per_unit = float32(_BINS) / (float32(2) * limit)
        count_S = np.zeros(_BINS, np.int32)
        found, inside, lowest, least = 0, 0, 0, float32(-np.inf)
        order_L = by_bound(bound_L)
        for place_of_list in range(len(order_L)):
            one, next_at = order_L[place_of_list], start_L[order_L[min(place_of_list + 1, len(order_L) - 1)]]
            if bound_L[one] < least:
                continue
            for at in range(start_L[one], start_L[one + 1]):
                fetch(codes_NW, next_at, 0)  # may lie behind the end, which is nobody's fault
                next_at += 1
                score = middle_L[one] + scale * float32(coded_product(codes_NW, at, query_W, width))
                if score >= least and (len(eligible_N) == 0 or eligible_N[row_N[at]] != 0):
                    score_N[found], found_N[found] = score, row_N[at]
                    found += 1
                    place = min(max(int64((score + limit) * per_unit), 0), _BINS - 1)
                    count_S[place] += 1
                    inside += 1
                    while inside - count_S[lowest] >= k:  # k are left without those of the lowest bin
                        inside -= count_S[lowest]
                        lowest += 1
                        least = float32(lowest) / per_unit - limit
        exact_K, kept_K, kept = np.empty(inside, np.float32), np.empty(inside, np.int64), 0
        for at in range(found):
            if min(max(int64((score_N[at] + limit) * per_unit), 0), _BINS - 1) >= lowest:
                kept_K[kept] = found_N[at]
                for begin in range(0, vectors_NE.shape[1] * 4, 64):
                    fetch(vectors_NE, kept_K[kept], begin)
                kept += 1
        for at in range(kept):
            product = float32(0)
            for e in range(len(query_E)):
                product += vectors_NE[kept_K[at], e] * query_E[e]
            exact_K[at] = product if product != 0 else float32(0)  # -0 is 0
        bits_K = exact_K.view(np.int32)
        for at in range(kept):
            falling = int64(~(bits_K[at] ^ ((bits_K[at] >> 31) & 0x7FFFFFFF)))
            kept_K[at] |= falling << 32
        return kept_K[:kept]

    return scan
