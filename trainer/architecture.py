"""What the exporter says of a ranker's making (contracts/architecture.py), for the architectures that a server can compute faster
than their graph; None for all others, and for variants that change the arithmetic."""

from __future__ import annotations

from typing import Any

from contracts.architecture import Architecture, BlockTokens
from contracts.schema import BlockName
from trainer.baselines.pepnet import PEPNet
from trainer.baselines.shared_dnn import SharedDNN
from trainer.dfei import DFEI, DomainFeatures
from trainer.dsfm import DSFM, SensitiveMemory
from trainer.dsfm_dfei import DSFMDFEI
from trainer.layers import FieldEmbedding, Ranker


def architecture_of(model: Ranker) -> Architecture | None:
    """By the exact class: a subclass may compute something else."""
    if type(model) is SharedDNN:
        return _of(model, "shared_dnn")
    if type(model) is PEPNet:
        return _of(model, "pepnet", priors=model.priors)
    if type(model) is DFEI:
        return _of(model, "dfei", **_features(model.features))
    if type(model) is DSFM and _plain(model.memory):
        return _of(model, "dsfm", **_memory(model.memory))
    if type(model) is DSFMDFEI and _plain(model.memory):
        return _of(model, "dsfm_dfei", **_memory(model.memory), **_features(model.features))
    return None


def _of(model: Ranker, kind: str, **more: Any) -> Architecture:
    embedding = model.embedding
    blocks = {name: _block(embedding, name) for name in embedding.block_names}
    domain_token = embedding.domain_weight is not None
    return Architecture(kind=kind, domains=len(model.offset_D), blocks=blocks, domain_token=domain_token, **more)  # type: ignore[arg-type]


def _block(embedding: FieldEmbedding, name: BlockName) -> BlockTokens:
    tokens: Any = embedding._block[name]
    fields = [one for one in embedding.schema.block(name).fields if one.matrix == "codes"]
    size = {column: one.cardinality for one in fields for column in range(one.columns.start, one.columns.stop)}
    columns = tokens.columns.tolist()
    return BlockTokens(
        columns=columns,
        offsets=tokens.column_offsets.tolist(),
        sizes=[size[column] for column in columns],
        lengths=list(tokens.lengths),
        scalars=len(tokens.lengths) - len(tokens._sequences),
        numbers=tokens.dense_columns.tolist(),
    )


def _plain(memory: SensitiveMemory) -> bool:
    config = memory.config
    return not (config.base_only or config.softmax or config.unit_offset)


def _memory(memory: SensitiveMemory) -> dict[str, Any]:
    config = memory.config
    return {
        "sensitive": memory.sensitive_tokens.tolist(),
        "embedding_retriever": config.embedding_retriever,
        "hidden_retrievers": config.hidden_retrievers,
        "auxiliary_logit": config.auxiliary_logit,
    }


def _features(features: DomainFeatures) -> dict[str, Any]:
    return {"reads": features.reads, "per_user": features.memory is not None}
