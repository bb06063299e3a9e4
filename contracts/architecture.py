"""What a ranker's ONNX file says of its own making: which architecture, and where its inputs and features stand.

The trainer writes it into the file's metadata beside the graph; a server that knows the architecture may compute it another way
with the same weights, which keep the model's own names among the file's initialisers. A file without it is served as a graph.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import BundleError
from contracts.schema import BlockName

KEY = "mdrec.architecture"
VERSION = 1

Kind = Literal["shared_dnn", "dsfm", "dfei", "dsfm_dfei", "pepnet"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockTokens(_Part):
    """Tokens of one block, in order. columns, offsets, sizes: per code that is read, its column, where its table begins and how
    many rows that has; lengths: codes a token, the first `scalars` tokens having one; numbers: dense columns, a token each."""

    columns: list[int]
    offsets: list[int]
    sizes: list[int]
    lengths: list[int]
    scalars: int
    numbers: list[int]

    @property
    def count(self) -> int:
        return len(self.lengths) + len(self.numbers)


class Architecture(_Part):
    """blocks: in token order, before the domain's token where there is one. sensitive: token numbers that feed DSFM's memory;
    reads: what DFEI's head reads of the vectors; priors: token numbers of PEPNet's gates."""

    version: int = VERSION
    kind: Kind
    domains: int
    blocks: dict[BlockName, BlockTokens]
    domain_token: bool
    sensitive: list[int] = []
    embedding_retriever: bool = False
    hidden_retrievers: bool = False
    auxiliary_logit: bool = False
    reads: list[Literal["z", "v_ud"]] = []
    per_user: bool = False
    priors: list[int] = []

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Raises BundleError naming the version or the field."""
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"architecture in the ranker's file: field {where!r}: {first['msg']}") from None
        if found.version != VERSION:
            raise BundleError(f"architecture in the ranker's file has version {found.version}, this version reads {VERSION}")
        return found
