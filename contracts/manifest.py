"""The manifest: the last file written into a bundle, whose presence means that the bundle is complete.

It names every other file with its digest, and everything a server or an operator must know without opening them.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import BundleError
from contracts.files import read_json, sha256_file, write_json

MANIFEST = "manifest.json"
FORMAT = 1
_RESTORE = "restore it or roll back to another bundle"
_BUNDLE_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    sha256: str
    bytes: int


IndexKind = Literal["exact", "ivf_flat", "ivf_sq8", "ivf_int8"]


class SweptIndex(_Part):
    """A candidate of a domain's index that met the recall gate. recall: on a sample of user embeddings; milliseconds: a
    single query on one thread, median; nprobe, reach: the effort of a kind that has it, else 0."""

    kind: IndexKind
    nlist: int
    nprobe: int
    reach: int = 0
    recall: float
    milliseconds: float
    bytes: int
    chosen: bool


class IndexEntry(_Part):
    """One domain's index. recall: share of exact search's top `recall_at` that it finds, measured on user embeddings;
    swept: what it was chosen from, empty where exact search was sure to win."""

    kind: str
    file: str
    parameters: dict[str, int] = {}
    dimension: int
    size: int
    recall_at: int
    recall: float
    recall_gate: float
    build_seconds: float
    swept: list[SweptIndex] = []


class DomainEntry(_Part):
    name: str
    directory: str
    ads: int
    index: IndexEntry


class RetrieverEntry(_Part):
    name: str
    dimension: int
    user_inputs: list[str]
    ad_inputs: list[str]


class UserVectors(_Part):
    """DFEI's vectors as the ranker reads them: (D, dimension); kappa: weight of the domain prior, in impressions."""

    dimension: int
    kappa: float


class RankerEntry(_Part):
    name: str
    inputs: list[str]
    parameters: int
    flops_per_candidate: int
    user_vectors: UserVectors | None = None
    sensitive_features: list[str] = []


class DatasetEntry(_Part):
    name: str
    digest: str
    rows: int
    through: str | None = None


class Gate(_Part):
    """A condition of publication. value and threshold are None where they cannot be computed; `reason` says why. live: what the
    bundle had that served then, where the gate compares with it."""

    name: str
    domain: str | None = None
    value: float | None
    live: float | None = None
    threshold: float | None
    passed: bool
    reason: str = ""


class Manifest(BaseModel):
    """What a bundle is. Content (everything that serving depends on) is identified by `content_digest`."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    bundle_id: str = Field(pattern=_BUNDLE_ID.pattern)
    recipe: str
    namespace: str
    dataset: DatasetEntry
    domains: list[DomainEntry]
    retriever: RetrieverEntry
    ranker: RankerEntry | None = None
    seed: int
    metrics: dict[str, Any] = {}
    gates: list[Gate] = []
    agreement: dict[str, float] = {}
    created_at: str
    step_seconds: dict[str, float] = {}
    versions: dict[str, str] = {}
    files: dict[str, FileEntry] = {}

    @property
    def content_digest(self) -> str:
        """sha256 over the sorted paths and digests of all files: equal for equal content, whenever it was made."""
        lines = (f"{path} {entry.sha256}\n" for path, entry in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    def publish(self, directory: Path) -> Manifest:
        """Digest every file under `directory`, then write the manifest: the bundle is complete from here on."""
        paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
        files = {
            path.relative_to(directory).as_posix(): FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)
            for path in paths
        }
        whole = self.model_copy(update={"files": files})
        write_json(directory / MANIFEST, whole.model_dump(mode="json"))
        return whole

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read without verifying. Raises BundleError naming file and field."""
        body = read_json(directory / MANIFEST)
        if isinstance(body, dict) and body.get("format") != FORMAT:  # before the fields, which another format may name otherwise
            remedy = "rebuild the bundle with this version of mdrec"
            raise BundleError(f"{directory / MANIFEST}: format {body.get('format')}, this version reads {FORMAT}", remedy)
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{directory / MANIFEST}: field {where!r}: {first['msg']}", "rebuild the bundle") from None

    def verify(self, directory: Path) -> None:
        """Compare every file with its digest. Raises BundleError naming the first file that differs."""
        for name, entry in self.files.items():
            path = directory / name
            if not path.is_file():
                raise BundleError(f"{path} is missing", _RESTORE)
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(f"{path} is corrupt: {size} bytes, the manifest says {entry.bytes}", _RESTORE)
            digest = sha256_file(path)
            if digest != entry.sha256:
                raise BundleError(f"{path} is corrupt: sha256 {digest[:12]}, the manifest says {entry.sha256[:12]}", _RESTORE)
