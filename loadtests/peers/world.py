"""The world that servers are compared in: a real bundle under a home of its own, and beside it what others serve it from.

    python -m loadtests.peers.world DIR --ads 100000

Embeddings of 64 dimensions, a DSFM ranker of the paper's industrial size, 500 candidates, users' rows in DIR/redis. Everything
of the bundle is made by the code of a night (deploy/bundle_files.py, indexer, trainer/export.py); only training is left out.
With several domains, all have the ads, towers and vectors of the first, in files of their own. Equal arguments, equal world.

DIR/peers holds the same world for everybody else: world.json, ranker_tiled.onnx (the graph as torch exports it, the user's row
repeated for every candidate), weights of both models as safetensors, an exact FAISS index, and lists.faiss, the fastest of
FAISS's indices that meets the same recall. Their other files are the bundle's.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import redis
import torch
from safetensors.torch import save_file

from contracts.aliases import Aliases
from contracts.errors import BadInput
from contracts.files import read_json, replace_dir, write_bytes, write_json
from contracts.manifest import MANIFEST, DatasetEntry, DomainEntry, IndexEntry, Manifest, RankerEntry, RetrieverEntry
from deploy import bundle_files
from deploy.redis_local import LocalRedis
from indexer.build import build_index
from indexer.index import FaissCpuIndex, Matrix
from indexer.policy import IndexSpec
from indexer.tower import embed, open_session
from loadtests import ranker_forms
from loadtests.peers.made_up import DIMENSION, MadeUp
from trainer import export, feature_store

RECIPE = "adi+dsfm"
CANDIDATES = 500
USERS = 20_000
FACTS = "peers/world.json"
FORMAT = 2  # of the files; a world of another is built again elsewhere


def build(
    home: Path,
    ads: int = 100_000,
    domains: int = 1,
    users: int = USERS,
    sensitive: Sequence[str] = ranker_forms.SENSITIVE,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """What world.json says. Done only where it is not there: a world of other arguments raises BadInput."""
    asked = {"format": FORMAT, "ads": ads, "domains": domains, "users": users, "sensitive": list(sensitive), "seed": seed}
    if (home / FACTS).is_file():
        facts = dict(read_json(home / FACTS))
        if facts["asked"] != asked:
            raise BadInput(f"{home} holds the world {facts['asked']}", "choose another directory, or remove that one")
        return facts
    bundle_id = f"bench.{ads}x{domains}.s{seed}"
    world = MadeUp.draw(users, ads, domains, seed)
    with torch.no_grad():
        manifest, of_peers = _bundle(world, home, bundle_id, sensitive, seed, say)
    with_redis(home, lambda client: _write_users(world, client, bundle_id))
    facts = {"asked": asked, "bundle_id": bundle_id, "k": CANDIDATES, **_entries(world, manifest), "peers_index": of_peers}
    Aliases(home).move(RECIPE, bundle_id)
    write_json(home / FACTS, facts)
    return facts


def with_redis(home: Path, work: Callable[[redis.Redis], Any]) -> None:
    """Run `work` on the world's Redis, which is stopped after it; its data stay."""
    server = LocalRedis(home / "redis").start()
    try:
        with redis.Redis.from_url(server.url) as client:
            work(client)
    finally:
        server.stop()


def _bundle(
    world: MadeUp, home: Path, bundle_id: str, sensitive: Sequence[str], seed: int, say: Callable[[str], None]
) -> tuple[Manifest, dict[str, Any]]:
    """The bundle, and what index its peers have."""
    staged, tables = home / "work" / bundle_id, _first_domain(world)
    shutil.rmtree(staged, ignore_errors=True)
    retriever, ranker = world.retriever(seed), world.ranker(sensitive, seed)
    with _timed("graphs", say):
        bundle_files.export_graphs(tables, retriever, ranker, staged)
    world.schema.save(staged / "schema")
    bundle_files.write_ads(tables, staged)
    with _timed("index", say):
        (first,) = bundle_files.build_indices(tables, staged, seed, home / "work" / "sweeps")
    with _timed("what peers read", say):
        queries_QE = bundle_files.sample_queries(tables, staged / first.directory, 0, seed)
        of_peers = _for_peers(world, retriever, ranker, staged, first.index, queries_QE, seed, home / "peers")
    entries = [_copied(first, number, name, staged) for number, name in enumerate(world.domains)]
    bundle_files.write_golden(world, ranker, staged, seed)  # type: ignore[arg-type]
    manifest = Manifest(
        bundle_id=bundle_id,
        recipe=RECIPE,
        namespace=bundle_id,
        dataset=DatasetEntry(name="made up", digest=bundle_id, rows=0),
        domains=entries,
        retriever=RetrieverEntry(
            name="adi",
            dimension=DIMENSION,
            user_inputs=export.block_inputs(world.schema, "user"),
            ad_inputs=export.block_inputs(world.schema, "ad"),
        ),
        ranker=RankerEntry(
            name="dsfm",
            inputs=export.ranker_inputs(world.schema, ranker),
            parameters=sum(one.numel() for one in ranker.parameters()),
            flops_per_candidate=0,
            sensitive_features=list(sensitive),
        ),
        seed=seed,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    whole = manifest.publish(staged)
    assert (staged / MANIFEST).is_file()
    replace_dir(staged, Aliases(home).bundle_directory(bundle_id))
    say(
        f"{first.index.kind} {first.index.parameters}, recall@{first.index.recall_at} {first.index.recall:.3f}; peers: {of_peers}"
    )
    return whole, of_peers


def _first_domain(world: MadeUp) -> Any:
    """As `bundle_files` takes tables; the others are copied from it."""
    from dataclasses import replace

    return replace(world, domains=world.domains[:1])


def _copied(first: DomainEntry, number: int, name: str, staged: Path) -> DomainEntry:
    directory = bundle_files.domain_directory(number)
    if number:
        shutil.copytree(staged / first.directory, staged / directory)
    return first.model_copy(update={"name": name, "directory": directory})


def _for_peers(
    world: MadeUp, retriever: Any, ranker: Any, staged: Path, ours: IndexEntry, queries_QE: Matrix, seed: int, directory: Path
) -> dict[str, Any]:
    names = export.ranker_inputs(world.schema, ranker)
    write_bytes(directory / "ranker_tiled.onnx", ranker_forms.plain_graph(ranker, world.schema, names))
    for name, model in (("ranker", ranker), ("retriever", retriever)):
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, directory / f"{name}.safetensors")
    session = open_session(staged / "domains/0/ad_tower.onnx")
    flat = faiss.IndexFlatIP(DIMENSION)
    vectors_NE = embed(session, {"ad_codes": world.ad_codes})
    flat.add(vectors_NE)
    faiss.write_index(flat, str(directory / "flat.faiss"))
    measured = [point for point in ours.swept if point.kind in ("ivf_flat", "ivf_sq8")]
    if not measured:  # few ads: mdrec searches exactly, and so do they
        return {"kind": "exact", "nprobe": 0, "recall": 1.0}
    best = min(measured, key=lambda point: point.milliseconds)
    spec = IndexSpec(best.kind, best.nlist, best.nprobe)
    index, recall = build_index(vectors_NE, queries_QE, spec, "peers", ours.recall_at, ours.recall_gate, seed)
    assert isinstance(index, FaissCpuIndex)
    index.save(directory / "lists.faiss")
    return {"kind": spec.kind, "nprobe": index.nprobe, "recall": recall}


def _write_users(world: MadeUp, client: redis.Redis, namespace: str) -> None:
    counts, vectors, day = world.user_rows()
    rows = feature_store.user_rows(world, counts, vectors, day)  # type: ignore[arg-type]
    feature_store.write_namespace(client, namespace, rows, feature_store.namespace_meta(world, None, namespace, day))  # type: ignore[arg-type]


def _entries(world: MadeUp, manifest: Manifest) -> dict[str, Any]:
    """What a server needs to know that reads no manifest: index, order of the context's features, and where files are."""
    entry = manifest.domains[0].index
    return {
        "namespace": manifest.namespace,
        "bundle": f"bundles/{manifest.bundle_id}",
        "domains": [one.name for one in manifest.domains],
        "index": {"kind": entry.kind, "parameters": entry.parameters, "recall": entry.recall},
        "context": [one.name for one in world.schema.of_side("context")],
        "levels": ranker_forms.LEVELS,
        "sensitive": list(manifest.ranker.sensitive_features) if manifest.ranker else [],
    }


class _timed:
    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._say(f"{self._name}: {time.perf_counter() - self._since:.1f} s")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.peers.world", description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, help="directory of the world, an MDREC_HOME of its own")
    parser.add_argument("--ads", type=int, default=100_000, help="in each domain")
    parser.add_argument("--domains", type=int, default=1)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--sensitive", nargs="+", default=ranker_forms.SENSITIVE, help="the ranker's sensitive features")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    try:
        build(given.home, given.ads, given.domains, given.users, given.sensitive, given.seed)
    except BadInput as error:
        sys.exit(f"error {error}")


if __name__ == "__main__":
    main()
