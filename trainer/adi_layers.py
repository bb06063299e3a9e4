"""The parts of an ADI tower (arXiv 2206.09672): domain batch norm, domain interest adaptation, shared and specific experts,
fusion. Every module takes the domain as a Python int: a batch is domain-pure, and an exported graph holds one domain.

Shapes: B rows, F tokens (one a feature), E token width, H expert output width, K shared experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Adaptation = Literal["lt", "va", "se", "none"]
Fusion = Literal["concat", "sum", "network_mul"]

_DOMAIN_WIDTH = 8  # of the domain embedding that gates read
_SQUEEZE = 2  # the squeeze-excitation bottleneck has F / 2 units


class DomainBatchNorm(nn.Module):
    """Batch normalisation with statistics and affine parameters of each domain's own; running averages at inference, so
    a row alone and a row in a crowd get the same output. shared: one set for all domains (the ablation)."""

    def __init__(self, width: int, domains: int, shared: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(1 if shared else domains))

    def forward(self, rows_BH: Tensor, domain: int) -> Tensor:
        norm = cast(nn.BatchNorm1d, self.norms[domain if len(self.norms) > 1 else 0])
        if self.training and rows_BH.shape[0] == 1:  # one row has no variance
            return functional.batch_norm(rows_BH, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        normed_BH: Tensor = norm(rows_BH)
        return normed_BH


class LinearTransformation(nn.Module):
    """LT (section 3.2): f * W_d + b_d, elementwise."""

    def __init__(self, fields: int, width: int, domains: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(domains, fields, width))
        self.shift = nn.Parameter(torch.zeros(domains, fields, width))

    def forward(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        return tokens_BFE * self.scale[domain] + self.shift[domain]


class VanillaAttention(nn.Module):
    """VA (section 3.2): sigmoid(q_id . F_i) F_i, a query for each field and domain."""

    def __init__(self, fields: int, width: int, domains: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(domains, fields, width) * width**-0.5)

    def forward(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        return tokens_BFE * self.weights(tokens_BFE, domain).unsqueeze(2)

    def weights(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        """weight_BF."""
        return torch.sigmoid((tokens_BFE * self.query[domain]).sum(2))


class SqueezeExcitation(nn.Module):
    """SE (section 3.2): alpha = FC(relu(FC(mean of each field))), a weight for each field, both layers the domain's own.
    The last layer starts at weight one for every field."""

    def __init__(self, fields: int, width: int, domains: int) -> None:
        super().__init__()
        squeezed = max(1, fields // _SQUEEZE)
        self.squeeze = nn.ModuleList(nn.Linear(fields, squeezed) for _ in range(domains))
        self.excite = nn.ModuleList(nn.Linear(squeezed, fields) for _ in range(domains))
        for layer in self.excite:
            nn.init.ones_(cast(nn.Linear, layer).bias)

    def forward(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        return tokens_BFE * self.weights(tokens_BFE, domain).unsqueeze(2)

    def weights(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        """weight_BF: alpha of each field."""
        weight_BF: Tensor = self.excite[domain](torch.relu(self.squeeze[domain](tokens_BFE.mean(2))))
        return weight_BF


class NoAdaptation(nn.Module):
    """The ablation: every domain sees the shared embedding as it is."""

    def __init__(self, fields: int, width: int, domains: int) -> None:
        super().__init__()

    def forward(self, tokens_BFE: Tensor, domain: int) -> Tensor:
        return tokens_BFE


ADAPTATIONS: dict[Adaptation, type[nn.Module]] = {
    "lt": LinearTransformation,
    "va": VanillaAttention,
    "se": SqueezeExcitation,
    "none": NoAdaptation,
}


class NormedMLP(nn.Module):
    """Linear, domain batch norm, relu for each hidden width in `widths[1:]`."""

    def __init__(self, widths: Sequence[int], domains: int, shared_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(start, end) for start, end in pairwise(widths))
        self.norms = nn.ModuleList(DomainBatchNorm(end, domains, shared_norm) for end in widths[1:])

    def forward(self, rows_BH: Tensor, domain: int) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            rows_BH = torch.relu(norm(layer(rows_BH), domain))
        return rows_BH


class FusedExperts(nn.Module):
    """K shared experts mixed by a gate over k, one specific expert of each domain, and their fusion (section 3.1).

    concat: [b1 e_s ; b1 e_s * b2 e_sh ; b2 e_sh];  sum: b1 e_s + b2 e_sh;  gates b = sigmoid(W embedding(d)), one a unit.
    Gate, b1 and b2 read the domain's embedding. Width out: 3H for concat, H for sum.
    """

    def __init__(self, widths: Sequence[int], domains: int, shared_experts: int, fusion: Fusion, shared_norm: bool) -> None:
        super().__init__()
        self.concat = fusion == "concat"
        self.width = widths[-1] * (3 if self.concat else 1)
        self.domain_rows = nn.Parameter(torch.randn(domains, _DOMAIN_WIDTH))
        self.gate = nn.Linear(_DOMAIN_WIDTH, shared_experts)
        self.gate_specific = nn.Linear(_DOMAIN_WIDTH, widths[-1])
        self.gate_shared = nn.Linear(_DOMAIN_WIDTH, widths[-1])
        self.shared = nn.ModuleList(NormedMLP(widths, domains, shared_norm) for _ in range(shared_experts))
        self.specific = nn.ModuleList(NormedMLP(widths, domains, shared_norm) for _ in range(domains))

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        domain_row = self.domain_rows[domain]
        mix_K = torch.softmax(self.gate(domain_row), dim=0)
        shared_BH = torch.stack([expert(rows_BI, domain) for expert in self.shared], dim=2) @ mix_K
        shared_BH = torch.sigmoid(self.gate_shared(domain_row)) * shared_BH
        specific_BH: Tensor = torch.sigmoid(self.gate_specific(domain_row)) * self.specific[domain](rows_BI, domain)
        if self.concat:
            return torch.cat([specific_BH, specific_BH * shared_BH, shared_BH], dim=1)
        return specific_BH + shared_BH


class NetworkMul(nn.Module):
    """Fusion of weights instead of outputs, as STAR does: each layer's weight is (sum_k gate_k W_k) * W_d elementwise,
    its bias the sum of both; then domain batch norm and relu. Specific weights start at one, specific biases at zero."""

    def __init__(self, widths: Sequence[int], domains: int, shared_experts: int, shared_norm: bool) -> None:
        super().__init__()
        self.width = widths[-1]
        self.domain_rows = nn.Parameter(torch.randn(domains, _DOMAIN_WIDTH))
        self.gate = nn.Linear(_DOMAIN_WIDTH, shared_experts)
        pairs = list(pairwise(widths))
        self.shared = nn.ModuleList(nn.ModuleList(nn.Linear(start, end) for start, end in pairs) for _ in range(shared_experts))
        self.specific = nn.ModuleList(nn.ModuleList(nn.Linear(start, end) for start, end in pairs) for _ in range(domains))
        for layer in self.specific.modules():
            if isinstance(layer, nn.Linear):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.norms = nn.ModuleList(DomainBatchNorm(end, domains, shared_norm) for end in widths[1:])

    def forward(self, rows_BI: Tensor, domain: int) -> Tensor:
        mix_K = torch.softmax(self.gate(self.domain_rows[domain]), dim=0)
        for depth, norm in enumerate(self.norms):
            specific = _layer(self.specific[domain], depth)
            shared = [_layer(expert, depth) for expert in self.shared]
            weight = (torch.stack([one.weight for one in shared], dim=2) @ mix_K) * specific.weight
            bias = (torch.stack([one.bias for one in shared], dim=1) @ mix_K) + specific.bias
            rows_BI = torch.relu(norm(functional.linear(rows_BI, weight, bias), domain))
        return rows_BI


def _layer(expert: nn.Module, depth: int) -> nn.Linear:
    """An expert of NetworkMul is a ModuleList of Linears, which torch's types do not tell."""
    return cast(nn.Linear, cast(nn.ModuleList, expert)[depth])
