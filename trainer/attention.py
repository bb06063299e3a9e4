"""Linear attention and the retriever block of DSFM (arXiv 2405.12892, section "memory retrieval").

    phi = elu + 1          LinAttn_i = phi(Q_i) (sum_j phi(K_j)^T V_j) / phi(Q_i) (sum_j phi(K_j)^T)

The sums over j are computed once: O((n + m) d') for n reading and m stored tokens, where the softmax twin needs O(n m).
Shape suffixes: B rows, N tokens that read, M tokens in the memory, T token width, A attention width d'.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_START_STD = 0.01


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1, always positive; spelled so because runtimes compute it much faster than Elu."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # a graph that is exported knows stock operators only
        return F.relu(x) + torch.exp(torch.clamp(x, max=0.0))
    done: Tensor = _Phi.apply(x)  # type: ignore[no-untyped-call]
    return done


class _Phi(torch.autograd.Function):
    """phi' = min(phi, 1): one tensor is kept for the gradient where the operators of phi keep four."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        done = x.clamp(max=0.0).exp_().add_(F.relu(x))
        context.save_for_backward(done)
        return done

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (done,) = context.saved_tensors
        slope: Tensor = done.clamp(max=1.0).mul_(gradient)
        return slope


def linear_attention(query_BNA: Tensor, key_BMA: Tensor, value_BMT: Tensor) -> Tensor:
    """read_BNT: per reading token the mean of the values, weighted by phi(Q_i) . phi(K_j)."""
    counted_BMT1 = F.pad(value_BMT, (0, 1), value=1.0)  # a last column of ones sums the weights
    read_BNT1 = phi(query_BNA) @ (phi(key_BMA).transpose(1, 2) @ counted_BMT1)
    return read_BNT1[:, :, :-1] * read_BNT1[:, :, -1:].reciprocal()


def softmax_attention(query_BNA: Tensor, key_BMA: Tensor, value_BMT: Tensor) -> Tensor:
    """read_BNT: the same mean with weights softmax_j(Q_i . K_j / sqrt(d'))."""
    weight_BNM = torch.softmax(query_BNA @ key_BMA.transpose(1, 2) / query_BNA.shape[-1] ** 0.5, dim=-1)
    return weight_BNM @ value_BMT


class Retriever(nn.Module):
    """base_BNT reads memory_BMT, which stays as it is: Za = Z + Attn(Z Wq, Ze Wk, Ze Wv) Wo; Z' = FFN(Za) + Za.

    units: (N, M), given only for the `unit_offset` arm. Tokens of width 1 without positions are exchangeable: a unit is
    known by its activation alone. The offset adds to every Q_i and K_j a learned vector of its unit.
    """

    def __init__(self, width: int, attention: int, softmax: bool = False, units: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.query = nn.Linear(width, attention, bias=False)
        self.key = nn.Linear(width, attention, bias=False)
        self.value = nn.Linear(width, attention, bias=False)
        self.output = nn.Linear(attention, width, bias=False)
        self.widen = nn.Linear(width, attention)
        self.narrow = nn.Linear(attention, width)
        for last in (self.output, self.narrow):  # a retriever starts close to the identity: the base learns first, then reads
            nn.init.normal_(last.weight, std=_START_STD)
        nn.init.zeros_(self.narrow.bias)
        self.attend = softmax_attention if softmax else linear_attention
        self.query_offset_NA = nn.Parameter(torch.randn(units[0], attention) * 0.1) if units else None
        self.key_offset_MA = nn.Parameter(torch.randn(units[1], attention) * 0.1) if units else None

    def forward(self, base_BNT: Tensor, memory_BMT: Tensor) -> Tensor:
        query, key = self.query(base_BNT), self.key(memory_BMT)
        if self.query_offset_NA is not None and self.key_offset_MA is not None:
            query, key = query + self.query_offset_NA, key + self.key_offset_MA
        # Wv and Wo act on each token alone, so they act as one T x T matrix, and on the memory, which has the fewer tokens.
        value_BMT = F.linear(memory_BMT, self.output.weight @ self.value.weight)
        found = base_BNT + self.attend(query, key, value_BMT)
        fed: Tensor = self.narrow(F.relu(self.widen(found))) + found
        return fed
