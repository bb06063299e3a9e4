"""One domain's ads -> embeddings -> the fastest index that meets its recall gate. Below the gate nothing is published."""

from __future__ import annotations

import time
from pathlib import Path

from contracts.errors import BadInput
from contracts.files import load_array
from contracts.manifest import IndexEntry
from indexer.build import build_index
from indexer.coded import CodedIndex
from indexer.index import FaissCpuIndex, Matrix
from indexer.policy import IndexSpec
from indexer.sweep import Swept, Wanted, fastest, memory_budget
from indexer.tower import embed, open_session


def build_domain(
    directory: Path,
    name: str,
    queries_QE: Matrix,
    k: int = 500,
    recall_gate: float = 0.98,
    spec: IndexSpec | None = None,
    seed: int = 0,
    workers: int = 1,
    memory: Path | None = None,
) -> IndexEntry:
    """Embed the ads of domain `name` and write `directory`/index.npy (lists/ beside it, where it has them) or index.faiss; the
    entry's `file` is relative to `directory`, which is a bundle's domains/<i> with ad_tower.onnx, ads/codes.npy and
    ads/dense.npy in place.

    queries_QE: (Q, E) float32 user embeddings of this domain, a sample of those it will be asked with; k: ads a request
    asks for: of exact search's k the index must find the share recall_gate; spec: by default the fastest (sweep.py, with what
    is in `memory`). Equal inputs and spec give equal bytes. Raises BadInput for a domain without ads or queries, WorkFailed
    for unusable embeddings or when nothing reaches the gate.
    """
    started = time.perf_counter()
    codes_AI, dense_AN = load_array(directory / "ads" / "codes.npy"), load_array(directory / "ads" / "dense.npy")
    if len(codes_AI) == 0:
        raise BadInput(f"domain {name!r} has no ads", "leave the domain out, or mark at least one of its ads active")
    if len(codes_AI) != len(dense_AN):
        raise BadInput(f"domain {name!r}: ads/codes.npy has {len(codes_AI)} rows, ads/dense.npy {len(dense_AN)}")
    vectors_AE = embed(open_session(directory / "ad_tower.onnx"), {"ad_codes": codes_AI, "ad_dense": dense_AN}, workers=workers)
    if spec is None:
        swept = fastest(vectors_AE, queries_QE, Wanted(name, k, recall_gate, memory_budget(), seed), memory)
    else:
        swept = Swept(spec, *build_index(vectors_AE, queries_QE, spec, name, k, recall_gate, seed), [])
    file, parameters = "index.npy", {}
    if isinstance(swept.index, FaissCpuIndex):
        file, parameters = "index.faiss", {"nlist": swept.index.nlist, "nprobe": int(swept.index.nprobe or 0)}
    elif isinstance(swept.index, CodedIndex):
        parameters = {"nlist": swept.index.nlist, "reach": swept.index.reach}
    swept.index.save(directory / file)
    return IndexEntry(
        kind=swept.spec.kind,
        file=file,
        parameters=parameters,
        dimension=swept.index.dimension,
        size=swept.index.size,
        recall_at=min(k, swept.index.size),
        recall=swept.recall,
        recall_gate=recall_gate,
        build_seconds=time.perf_counter() - started,
        swept=swept.points,
    )
