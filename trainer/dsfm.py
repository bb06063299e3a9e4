"""DSFM, a retrievable memory of domain-sensitive features (arXiv 2405.12892).

Two towers of equal hidden widths over shared embeddings: the base reads every feature, the extractor only the sensitive
ones (trainer/attribution.py finds them). After the embeddings (tokens = features) and after each hidden layer (tokens =
units, width 1) the base reads the extractor through a Retriever; the extractor is untouched. logit = base + extractor.

Decisions where the paper is silent: the base also has the domain as a feature, as the shared DNN it is compared with; the
FFN of a retriever is d' wide; retrievers start close to the identity (torch's own start costs half an epoch and .005 AUC
on KuaiRand-Pure); embeddings are 8 wide, as every ranker's here and the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from contracts.errors import BadInput
from contracts.schema import FeatureSchema
from trainer.attention import Retriever
from trainer.layers import MLP, FieldEmbedding, Inputs, Ranker


@dataclass(frozen=True)
class DSFMConfig:
    """dim: embedding width d; attention, hidden_attention: d' of the embedding and of the hidden retrievers; selection: which
    end of the sensitivity ranking feeds the memory (the caller does so); the switches are the ablations."""

    dim: int = 8
    hidden: tuple[int, ...] = (128, 64, 32)
    attention: int = 16
    hidden_attention: int = 4
    dropout: float = 0.2
    embedding_l2: float = 1e-6
    selection: Literal["top", "last", "all"] = "top"
    embedding_retriever: bool = True
    hidden_retrievers: bool = True
    auxiliary_logit: bool = True
    softmax: bool = False
    unit_offset: bool = False
    base_only: bool = False


VARIANTS: dict[str, dict[str, Any]] = {
    "no_emb_attn": {"embedding_retriever": False},
    "no_hidden_attn": {"hidden_retrievers": False},
    "no_aux_logit": {"auxiliary_logit": False},
    "softmax_attn": {"softmax": True},
    "unit_offset": {"unit_offset": True},
    "base_only": {"base_only": True},
    "last_n": {"selection": "last"},
    "all_features": {"selection": "all"},
}


def public() -> DSFMConfig:
    """The paper's sizes on public data (batch 4096, Adam 1e-3)."""
    return DSFMConfig(dim=8)


def industrial() -> DSFMConfig:
    """The paper's sizes on industrial data (batch 20480)."""
    return DSFMConfig(dim=8, hidden=(256, 128, 64), attention=32, hidden_attention=8)


class DSFM(Ranker):
    """sensitive: names of the features that feed the memory. Raises BadInput when there are none or one is unknown."""

    def __init__(self, schema: FeatureSchema, config: DSFMConfig, sensitive: Sequence[str]) -> None:
        super().__init__(schema)
        self.embedding_l2 = config.embedding_l2
        self.embedding = FieldEmbedding(schema, config.dim, with_domain_token=True)
        self.memory = SensitiveMemory(self.embedding.names, config, sensitive)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.logit(self.embedding(inputs))

    def logit(self, tokens_BFE: Tensor) -> Tensor:
        """logit_B from the tokens alone."""
        logit_B: Tensor = self.memory(tokens_BFE)
        return logit_B


class SensitiveMemory(nn.Module):
    """The two towers and their retrievers: tokens_BFE -> logit_B. names: of the tokens, in order."""

    sensitive_tokens: Tensor

    def __init__(self, names: Sequence[str], config: DSFMConfig, sensitive: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        dim, hidden = config.dim, config.hidden
        self.base = MLP(len(names) * dim, hidden, config.dropout, output=1)
        if config.base_only:
            return
        positions = _positions(names, sensitive)
        self.register_buffer("sensitive_tokens", torch.tensor(positions), persistent=False)
        self.extractor = MLP(len(positions) * dim, hidden, config.dropout, output=1 if config.auxiliary_logit else None)
        if config.embedding_retriever:
            units = (len(names), len(positions)) if config.unit_offset else None
            self.embedding_retriever = Retriever(dim, config.attention, config.softmax, units)
        if config.hidden_retrievers:
            self.hidden_retrievers = nn.ModuleList(
                Retriever(1, config.hidden_attention, config.softmax, (width, width) if config.unit_offset else None)
                for width in hidden
            )

    def forward(self, tokens_BFE: Tensor) -> Tensor:
        config = self.config
        if config.base_only:
            alone: Tensor = self.base(tokens_BFE.flatten(1))
            return alone.squeeze(1)
        memory_BSE = tokens_BFE[:, self.sensitive_tokens]
        if config.embedding_retriever:
            tokens_BFE = self.embedding_retriever(tokens_BFE, memory_BSE)
        x, e = tokens_BFE.flatten(1), memory_BSE.flatten(1)
        for layer, _ in enumerate(config.hidden):
            x, e = self.base.hidden(layer, x), self.extractor.hidden(layer, e)
            if config.hidden_retrievers:
                x = self.hidden_retrievers[layer](x[:, :, None], e[:, :, None]).squeeze(2)
        logit_B1: Tensor = self.base.linears[-1](x)
        if config.auxiliary_logit:
            logit_B1 = logit_B1 + self.extractor.linears[-1](e)
        return logit_B1.squeeze(1)


def _positions(names: Sequence[str], sensitive: Sequence[str]) -> list[int]:
    if not sensitive:
        raise BadInput("DSFM has no sensitive features to remember", "attribute the dataset first, or use dsfm:base_only")
    unknown = [name for name in sensitive if name not in names]
    if unknown:
        raise BadInput(f"sensitive feature {unknown[0]!r} is not a model input", f"known: {', '.join(names)}")
    return [names.index(name) for name in sensitive]
