"""What every model is made of: inputs, field embeddings, a plain MLP, per-domain towers, and the base class of rankers.

Shape suffixes: B rows, R rows of one block (B, or 1 when all rows share it), F tokens (one a feature), E embedding width,
D domains, K width of a domain vector, I code columns, N dense columns, L sequence length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.manifest import UserVectors
from contracts.schema import PAD, Block, BlockName, FeatureSchema
from trainer.pooling import pooled

if TYPE_CHECKING:
    from trainer.fit import FitSettings
    from trainer.tables import Batch, Tables

EMBEDDING_STD = 0.01


class Inputs(NamedTuple):
    """What a ranker reads. codes int32, dense float32, domain int64. The user and context blocks, `domain` and
    `user_vectors` may have one row that all B candidates share, as they do in a request; a block without columns of a
    kind has a matrix of width 0. user_vectors: blended v_ud, None when the model does not read them or nobody has history."""

    user_codes: Tensor  # (R, Iu)
    user_dense: Tensor  # (R, Nu)
    context_codes: Tensor  # (R, Ic)
    context_dense: Tensor  # (R, Nc)
    ad_codes: Tensor  # (B, Ia)
    ad_dense: Tensor  # (B, Na)
    domain: Tensor  # (R,)
    user_vectors: Tensor | None = None  # (R, D, K)

    def block(self, name: BlockName) -> tuple[Tensor, Tensor]:
        """codes_RI and dense_RN of one block."""
        return getattr(self, f"{name}_codes"), getattr(self, f"{name}_dense")

    @property
    def rows(self) -> int:
        return self.ad_codes.shape[0]


class FieldEmbedding(nn.Module):
    """Inputs -> tokens_BFE, one token a feature, named by `names` in token order.

    Categorical and binned numeric: a row of the field's table; sequence: the mean of its codes' rows, padding left out (the
    zero vector when empty); standardised numeric x: x w + b. Fields that name one `table` share it, so the ads of a user's
    history are the ads of the catalogue. All tables are one matrix and all scalar codes of a block one look-up.
    per_domain: each domain has tables of its own, D slices of that matrix.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        dim: int,
        blocks: Sequence[BlockName] = ("user", "context", "ad"),
        with_domain_token: bool = False,
        per_domain: bool = False,
    ) -> None:
        super().__init__()
        self.schema = schema
        self.dim = dim
        self.per_domain = per_domain
        self.block_names = tuple(blocks)
        offsets: dict[str, int] = {}
        total = 0
        for name in blocks:
            for field in schema.block(name).fields:
                if field.matrix == "codes" and field.table not in offsets:
                    offsets[field.table] = total
                    total += field.cardinality
        self._total = total
        self._offsets = offsets
        copies = len(schema.domains) if per_domain else 1
        self.weight = nn.Parameter(torch.randn(copies * total, dim) * EMBEDDING_STD)
        self.domain_weight = nn.Parameter(torch.randn(len(schema.domains), dim) * EMBEDDING_STD) if with_domain_token else None
        self._block = nn.ModuleDict({name: _BlockTokens(schema.block(name), offsets, dim, copies) for name in blocks})
        self.names: list[str] = [field for name in blocks for field in self.block_fields(name)]
        if with_domain_token:
            self.names.append("domain")

    @property
    def width(self) -> int:
        """F * E, the width of the flattened tokens."""
        return len(self.names) * self.dim

    def block_fields(self, name: BlockName) -> list[str]:
        """Token names of one block, in order."""
        return self._block[name].names  # type: ignore[return-value]

    def block_tokens(self, name: BlockName, codes_RI: Tensor, dense_RN: Tensor) -> Tensor:
        """tokens_RFE of one block alone, as a retrieval tower reads them."""
        return self._tokens(name, codes_RI, dense_RN, torch.zeros(1, dtype=torch.int64, device=codes_RI.device))

    def narrowed(self, name: BlockName) -> FieldEmbedding:
        """A copy that holds only the tables one block reads, as a tower of that block needs them."""
        narrow = FieldEmbedding(self.schema, self.dim, blocks=(name,))
        sizes = {field.table: field.cardinality for field in self.schema.block(name).fields if field.matrix == "codes"}
        with torch.no_grad():
            for table, first in narrow._offsets.items():
                own = slice(self._offsets[table], self._offsets[table] + sizes[table])
                narrow.weight[first : first + sizes[table]] = self.weight[own]
            narrow._block[name].load_state_dict(self._block[name].state_dict())
        return narrow

    def forward(self, inputs: Inputs) -> Tensor:
        rows, copy_R = inputs.rows, self._copy(inputs)
        parts = [self._tokens(name, *inputs.block(name), copy_R).expand(rows, -1, -1) for name in self.block_names]
        if self.domain_weight is not None:
            parts.append(self.domain_weight[inputs.domain][:, None, :].expand(rows, -1, -1))
        return torch.cat(parts, dim=1)

    def penalty(self, inputs: Inputs) -> Tensor:
        """Half the squared norm of the table rows that the batch touches, each once: L2 that leaves unseen rows alone and
        needs no sparse gradients."""
        first_R1 = self._first(self._copy(inputs))
        touched = torch.zeros(len(self.weight) + 1, device=self.weight.device)  # padding touches the one row too many
        for name in self.block_names:
            codes_RN, share_RN = self._block[name].read(inputs.block(name)[0], first_R1)  # type: ignore[operator]
            touched.scatter_(0, torch.where(share_RN > 0, codes_RN, len(self.weight)).flatten().long(), 1.0)
        return 0.5 * self.weight.index_select(0, touched[:-1].nonzero().squeeze(1)).square().sum()

    def _copy(self, inputs: Inputs) -> Tensor:
        """Which copy of the tables each row reads."""
        return inputs.domain if self.per_domain else torch.zeros_like(inputs.domain[:1])

    def _first(self, copy_R: Tensor) -> Tensor:
        """first_R1: where that copy begins."""
        return (copy_R * self._total).to(torch.int32)[:, None]

    def _tokens(self, name: BlockName, codes_RI: Tensor, dense_RN: Tensor, copy_R: Tensor) -> Tensor:
        tokens: Tensor = self._block[name](self.weight, codes_RI, dense_RN, copy_R, self._first(copy_R))
        return tokens


class _BlockTokens(nn.Module):
    """The tokens of one block: scalar codes first, then sequences, then dense numbers (few, large operations)."""

    columns: Tensor
    column_offsets: Tensor
    dense_columns: Tensor

    def __init__(self, block: Block, offsets: dict[str, int], dim: int, copies: int) -> None:
        super().__init__()
        scalars = [one for one in block.fields if one.matrix == "codes" and one.kind != "sequence"]
        sequences = [one for one in block.fields if one.kind == "sequence"]
        numbers = [one for one in block.fields if one.matrix == "dense"]
        self.names = [one.name for one in (*scalars, *sequences, *numbers)]
        self._sequences = [(one.columns, offsets[one.table]) for one in sequences]
        read = [*scalars, *sequences]
        self.lengths = tuple(one.columns.stop - one.columns.start for one in read)  # how many codes make a token
        self.dim = dim
        columns = [(column, offsets[one.table]) for one in read for column in range(one.columns.start, one.columns.stop)]
        self.register_buffer("columns", torch.tensor([one for one, _ in columns], dtype=torch.int64), persistent=False)
        self.register_buffer("column_offsets", torch.tensor([one for _, one in columns], dtype=torch.int32), persistent=False)
        self.register_buffer("dense_columns", torch.tensor([one.start for one in numbers], dtype=torch.int64), persistent=False)
        self.dense_weight = nn.Parameter(torch.randn(copies, len(numbers), dim) * EMBEDDING_STD) if numbers else None
        self.dense_bias = nn.Parameter(torch.zeros(copies, len(numbers), dim)) if numbers else None

    def forward(self, weight_VE: Tensor, codes_RI: Tensor, dense_RN: Tensor, copy_R: Tensor, first_R1: Tensor) -> Tensor:
        parts = []
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # a graph that is exported has no bag
            parts += self._looked_up(weight_VE, codes_RI, first_R1)
        elif self.lengths:
            codes_RN, share_RN = self.read(codes_RI, first_R1)
            parts.append(pooled(weight_VE, codes_RN, share_RN, self.lengths))
        if self.dense_weight is not None and self.dense_bias is not None:
            parts.append(dense_RN[:, self.dense_columns, None] * self.dense_weight[copy_R] + self.dense_bias[copy_R])
        if not parts:
            return weight_VE.new_zeros((codes_RI.shape[0], 0, self.dim))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def read(self, codes_RI: Tensor, first_R1: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the matrix that the tokens sum, in token order, and the share of each: 1 for a scalar, 1 / n in a sequence
        of n codes, 0 for padding."""
        codes_RN = codes_RI.index_select(1, self.columns)
        share_RN = torch.ones(codes_RN.shape, device=codes_RN.device)
        at = len(self.lengths) - len(self._sequences)
        for length in self.lengths[at:]:
            kept_RL = codes_RN[:, at : at + length] != PAD
            share_RN[:, at : at + length] = kept_RL / kept_RL.sum(dim=1, keepdim=True).clamp(min=1)
            at += length
        return codes_RN + self.column_offsets + first_R1, share_RN

    def _looked_up(self, weight_VE: Tensor, codes_RI: Tensor, first_R1: Tensor) -> list[Tensor]:
        parts = []
        scalars = len(self.lengths) - len(self._sequences)
        if scalars:
            alone, offsets = self.columns[:scalars], self.column_offsets[:scalars]
            parts.append(F.embedding(codes_RI[:, alone] + offsets + first_R1, weight_VE))
        for columns, offset in self._sequences:
            codes_RL = codes_RI[:, columns]
            kept_RL1 = (codes_RL != PAD).to(weight_VE.dtype)[:, :, None]
            total_RE = (F.embedding(codes_RL + offset + first_R1, weight_VE) * kept_RL1).sum(dim=1)
            parts.append((total_RE / kept_RL1.sum(dim=1).clamp(min=1.0))[:, None, :])
        return parts


class MLP(nn.Module):
    """x_Bn -> (B, hidden[-1]): Linear, ReLU and dropout per hidden width. dropout: one rate, or one a layer. `output` adds a
    last linear layer of that width without activation."""

    def __init__(
        self, width: int, hidden: Sequence[int], dropout: float | Sequence[float] = 0.0, output: int | None = None
    ) -> None:
        super().__init__()
        rates = [dropout] * len(hidden) if isinstance(dropout, int | float) else list(dropout)
        if len(rates) != len(hidden):
            raise ValueError(f"{len(rates)} dropout rates for {len(hidden)} layers")
        widths = [width, *hidden, *([] if output is None else [output])]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.rates = rates
        self.width = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        linears: list[Any] = list(self.linears)
        return self._run(x, [(one.weight, one.bias) for one in linears])

    def hidden(self, layer: int, x: Tensor) -> Tensor:
        """One hidden layer alone, for models that step in between."""
        linear: Any = self.linears[layer]
        return F.dropout(F.relu(linear(x)), self.rates[layer], self.training)

    def _run(self, x: Tensor, weights: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        for index, (weight, bias) in enumerate(weights):
            x = F.linear(x, weight, bias)
            if index < len(self.rates):
                x = F.dropout(F.relu(x), self.rates[index], self.training)
        return x


class DomainTowers(nn.Module):
    """One MLP a domain; each row runs through its own domain's and through no other, so the cost does not grow with D.

    The towers are separate parameters, not one stacked tensor: a domain absent from the batch has no gradient at all, and
    Adam leaves it and its moments alone. With one domain for all rows given as a tensor (the exported graph), the weights
    are stacked and selected.
    """

    def __init__(self, domains: int, build: Callable[[], MLP]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(build() for _ in range(domains))

    def forward(self, x_Bn: Tensor, domain_R: Tensor) -> Tensor:
        if domain_R.shape[0] == 1:
            return self._run(x_Bn, domain_R)
        order, sizes = rows_by_domain(domain_R, len(self.towers))
        if max(sizes) == len(domain_R):
            return self._run(x_Bn, sizes.index(len(domain_R)))
        parts = torch.split(x_Bn[order], sizes)
        done = [self._run(part, domain) for domain, part in enumerate(parts) if len(part)]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(done)[back]

    def weights(self, domain: int | Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer of one domain's tower; the domain a number, or a tensor of one."""
        towers: list[Any] = list(self.towers)
        if isinstance(domain, int):
            return [(one.weight, one.bias) for one in towers[domain].linears]
        return [
            (_select([one.weight for one in layer], domain), _select([one.bias for one in layer], domain))
            for layer in zip(*(tower.linears for tower in towers), strict=True)
        ]

    def _run(self, x_Bn: Tensor, domain: int | Tensor) -> Tensor:
        first: MLP = self.towers[0]  # type: ignore[assignment]
        return first._run(x_Bn, self.weights(domain))


def _select(of_domains: Sequence[Tensor], domain_1: Tensor) -> Tensor:
    return torch.stack(list(of_domains)).index_select(0, domain_1)[0]


def rows_by_domain(domain_B: Tensor, domains: int) -> tuple[Tensor, list[int]]:
    """Row numbers ordered by domain (stable), and how many rows each domain has."""
    return torch.argsort(domain_B, stable=True), torch.bincount(domain_B, minlength=domains).tolist()


class Ranker(nn.Module):
    """Base of every ranker: forward(inputs) -> logit_B, which is trained; calibrated(inputs) -> the logit of p_click, which is
    scored, exported and served.

    A ranker with `embedding` (a FieldEmbedding) and `embedding_l2` gets the penalty of the rows it touched in its loss.
    `fit` calls prepare(tables) once, start_epoch() before each epoch, training_loss(batch) per batch; whoever scores logged
    rows calls calibrated(serving_inputs(batch)) in eval mode. offset_D: trainer/calibration.py.
    """

    domain_pure: bool = False  # fit feeds domain-pure batches, the domains in turn
    user_vectors: UserVectors | None = None  # what the exported graph's `user_vectors` input must hold, None: no such input
    embedding: FieldEmbedding
    embedding_l2: float = 0.0
    offset_D: Tensor

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.register_buffer("offset_D", torch.zeros(len(schema.domains)))

    def forward(self, inputs: Inputs) -> Tensor:
        """logit_B: (B,) float32."""
        raise NotImplementedError

    def calibrated(self, inputs: Inputs) -> Tensor:
        """logit_B with the offset of each row's domain."""
        logit_B: Tensor = self(inputs) + self.offset_D[inputs.domain]
        return logit_B

    def prepare(self, tables: Tables) -> None:
        """Allocate what depends on the data's entities; called once before training, and before loading a checkpoint."""

    def start_epoch(self) -> None:
        """Forget what must not outlive an epoch."""

    def serving_inputs(self, batch: Batch) -> Inputs:
        """The batch as a server would see it: user-domain vectors attached where the model reads them."""
        inputs: Inputs = batch.inputs
        return inputs

    def training_loss(self, batch: Batch) -> Tensor:
        """Mean log-loss of the batch, plus the embedding penalty."""
        return F.binary_cross_entropy_with_logits(self(batch.inputs), batch.label) + self.regularisation(batch.inputs)

    def regularisation(self, inputs: Inputs) -> Tensor:
        if self.embedding_l2 == 0.0:
            return torch.zeros((), device=inputs.domain.device)
        return self.embedding_l2 * self.embedding.penalty(inputs)

    def fit_beside(self, tables: Tables, settings: FitSettings) -> None:
        """Fit what stands beside the gradient model, in one call: after it, and again when it is to know more."""

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups, each with its learning rate."""
        return [{"params": list(self.parameters()), "lr": lr}]
