"""What stands in a bundle, file by file: graphs and how well they agree with torch, ad tables, golden batch, indices."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.files import save_array, write_bytes
from contracts.ids import IdTable
from contracts.manifest import DomainEntry
from contracts.schema import BlockName
from indexer.domain import build_domain
from indexer.tower import embed, open_session
from trainer import export
from trainer.layers import Ranker
from trainer.tables import Tables
from trainer.two_tower import TwoTower

QUERIES = 500  # users whose embeddings measure an index's recall: standard error .01 at most
AGREEMENT_ROWS = 10_000  # of the ranker, of all user towers and of all ad towers: 10,000 of each tower took 100 s for 15 domains
_LEAST_ROWS = 500  # of one tower
GOLDEN_ROWS = 8
SIDES: tuple[BlockName, ...] = ("user", "ad")


def domain_directory(number: int) -> str:
    return f"domains/{number}"


def export_graphs(tables: Tables, retriever: TwoTower, ranker: Ranker | None, directory: Path) -> None:
    """Every graph of a bundle under its final name."""
    for number in range(len(tables.domains)):
        for side in SIDES:
            path = directory / domain_directory(number) / f"{side}_tower.onnx"
            export.export_tower(retriever, tables.schema, side, number, path)
    if ranker is not None:
        export.export_ranker(ranker, tables.schema, directory / "ranker.onnx")
        if ranker.user_vectors is not None:
            export.export_user_domain_encoder(ranker, tables.schema, directory / "user_domain_encoder.onnx")


def agreement_of(tables: Tables, retriever: TwoTower, ranker: Ranker | None, directory: Path, seed: int) -> dict[str, float]:
    """Largest difference between torch and ONNX Runtime by graph, over AGREEMENT_ROWS random rows of each kind."""
    found: dict[str, float] = {}
    rows = max(AGREEMENT_ROWS // len(tables.domains), _LEAST_ROWS)
    for number in range(len(tables.domains)):
        for side in SIDES:
            name = f"{domain_directory(number)}/{side}_tower"
            path = directory / f"{name}.onnx"
            found[name] = export.tower_difference(retriever, tables.schema, side, number, path, rows, seed)
    if ranker is not None:
        found["ranker"] = export.ranker_difference(ranker, tables.schema, directory / "ranker.onnx", AGREEMENT_ROWS, seed)
    return found


def write_ads(tables: Tables, directory: Path) -> None:
    """domains/<i>/ads of every domain: its eligible ads in row order. Row r is the same ad in every file."""
    for number in range(len(tables.domains)):
        folder = directory / domain_directory(number) / "ads"
        rows = tables.eligible(number)
        codes, dense = tables.ad_block(rows, number)
        IdTable(tables.ads.take(rows)).save(folder / "ids")
        save_array(folder / "codes.npy", codes)
        save_array(folder / "dense.npy", dense)
        save_array(folder / "bid.npy", tables.bid(number)[rows].astype(np.float32))
        save_array(folder / "active.npy", np.ones(len(rows), dtype=np.bool_))
        save_array(folder / "popular.npy", np.searchsorted(rows, tables.popular(number)).astype(np.int32))


def write_golden(tables: Tables, ranker: Ranker | None, directory: Path, seed: int) -> None:
    """golden.npz: `<graph>/in/<input>` and `<graph>/out/<output>`, real users and ads of each domain. Zip entries carry no
    time, so equal content is equal bytes."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}

    def record(name: str, output: str, feeds: dict[str, NDArray[Any]]) -> None:
        arrays.update({f"{name}/in/{key}": value for key, value in feeds.items()})
        arrays[f"{name}/out/{output}"] = export.run(directory / f"{name}.onnx", feeds)

    for number in range(len(tables.domains)):
        users = rng.integers(0, len(tables.users), GOLDEN_ROWS)
        ads = rng.choice(tables.eligible(number), GOLDEN_ROWS)
        for side, block in zip(SIDES, (tables.user_block(users, number), tables.ad_block(ads, number)), strict=True):
            names = export.block_inputs(tables.schema, side)
            record(f"{domain_directory(number)}/{side}_tower", "embedding", _named(names, side, block))
    if ranker is not None:
        feeds = export.random_feeds(tables.schema, export.ranker_inputs(tables.schema, ranker), ranker, GOLDEN_ROWS, rng)
        record("ranker", "p_click", feeds)
        if ranker.user_vectors is not None:
            names = export.ranker_inputs(tables.schema, ranker, vectors=False)
            record("user_domain_encoder", "u", {name: feeds[name] for name in names})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(directory / "golden.npz", buffer.getvalue())


def build_indices(tables: Tables, directory: Path, seed: int, memory: Path) -> list[DomainEntry]:
    """One index a domain, its speed and recall measured on embeddings of the domain's own users. memory: directory of what
    earlier nights measured."""
    entries = []
    for number, name in enumerate(tables.domains):
        folder = directory / domain_directory(number)
        queries = sample_queries(tables, folder, number, seed)
        index = build_domain(folder, name, queries, seed=seed, memory=memory)
        entries.append(DomainEntry(name=name, directory=domain_directory(number), ads=index.size, index=index))
    return entries


def sample_queries(tables: Tables, folder: Path, number: int, seed: int) -> NDArray[np.float32]:
    """(Q, E) float32: embeddings of users drawn from the domain's training events."""
    users = np.unique(tables.column("train", "user_row")[tables.domain_rows("train", number)])
    rng = np.random.default_rng((seed, number))
    drawn = np.sort(rng.choice(users, min(QUERIES, len(users)), replace=False))
    names = export.block_inputs(tables.schema, "user")
    return embed(open_session(folder / "user_tower.onnx"), _named(names, "user", tables.user_block(drawn, number)))


def _named(names: list[str], side: str, block: tuple[NDArray[Any], NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: value for name, value in zip((f"{side}_codes", f"{side}_dense"), block, strict=True) if name in names}
