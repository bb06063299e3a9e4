"""One bundle in memory: everything a request needs from one generation, checked before it takes traffic.

A file that is missing, cut short, altered or of another build refuses the whole bundle with a reason; nothing half
loaded is ever returned. Arrays and indices are memory-mapped, so that workers share their pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BundleError, MdrecError
from contracts.files import load_array
from contracts.ids import IdTable
from contracts.manifest import DomainEntry, Manifest
from contracts.schema import Encoded, FeatureSchema
from indexer.index import Index, open_index
from server import golden
from server.fused import chain
from server.fused.chain import Choice, Ranker
from server.inference import F32, Graph
from server.stacked import Stacked, StackedIds

I32 = np.ndarray[Any, np.dtype[np.int32]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

RANKER = "ranker"
USER_DOMAIN_ENCODER = "user_domain_encoder"


@dataclass(frozen=True, slots=True)
class AdTable:
    """Row r is the same ad in every array and in the index. codes: (A, Ia); dense: (A, Na); bid: (A,); active: (A,);
    popular: rows, best first; inactive: number of ads that are not active."""

    ids: IdTable | StackedIds
    codes: I32 | Stacked[np.int32]
    dense: F32 | Stacked[np.float32]
    bid: F32
    active: Bools
    popular: I32
    inactive: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inactive", len(self.active) - int(np.count_nonzero(self.active)))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class DomainModel:
    """One domain of a bundle. number: its place in the schema's order."""

    name: str
    number: int
    user_tower: Graph
    ad_tower: Graph
    index: Index
    index_kind: str
    ads: AdTable


class Bundle:
    """A verified bundle. Its attributes never change: a request that holds it sees one generation."""

    def __init__(self, directory: Path, device: str = "cpu", cache: Path | None = None) -> None:
        """Load aside: verify digests, open, replay the golden batch, choose how the ranker is computed. cache: where compiled
        code is kept between starts. Raises BundleError saying what is wrong."""
        self.directory = directory
        self.manifest = Manifest.load(directory)
        self.manifest.verify(directory)
        try:
            self._open(directory, device, cache)
        except BundleError:
            raise
        except MdrecError as error:
            raise BundleError(f"{directory}: {error.message}", error.hint) from error
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{directory} is not a bundle this version reads: {error!r}", "rebuild the bundle") from error
        self.golden_difference = golden.replay(directory, self.graphs)
        self.ranker: Ranker | None = None
        self.ranker_form: Choice | None = None
        if RANKER in self.graphs:  # after the replay: the graph itself is known to be right
            self.ranker, self.ranker_form = chain.choose(self.graphs[RANKER], self.schema, cache, device)
            if self.ranker is not self.graphs[RANKER]:
                self.graphs[RANKER].rest()
        for domain in self.domains.values():
            domain.ad_tower.rest()

    def _open(self, directory: Path, device: str, cache: Path | None) -> None:
        manifest = self.manifest
        self.schema = FeatureSchema.load(directory / "schema")
        self.contexts: dict[bytes, Encoded] = {}  # what features.encode_context has encoded before
        names = [entry.name for entry in manifest.domains]
        if names != list(self.schema.domains):
            found = list(self.schema.domains)
            raise BundleError(f"{directory}: manifest has domains {names}, schema {found}", "rebuild the bundle")
        self.graphs: dict[str, Graph] = {}
        self.domains = {entry.name: self._domain(number, entry, device, cache) for number, entry in enumerate(manifest.domains)}
        self.user_domain_encoder: Graph | None = None
        self.domain_vectors: F32 | None = None
        if manifest.ranker is not None:
            self._graph(RANKER, manifest.ranker.inputs, "p_click", device)
            if manifest.ranker.user_vectors is not None:
                self.domain_vectors = np.asarray(load_array(directory / "domain_vectors.npy"))
                shape = (len(names), manifest.ranker.user_vectors.dimension)
                if self.domain_vectors.shape != shape:
                    raise BundleError(f"{directory}: domain_vectors.npy has shape {self.domain_vectors.shape}, not {shape}")
                if (directory / f"{USER_DOMAIN_ENCODER}.onnx").is_file():
                    inputs = [one for one in manifest.ranker.inputs if one != "user_vectors"]
                    self.user_domain_encoder = self._graph(USER_DOMAIN_ENCODER, inputs, "u", device)

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    @property
    def recipe(self) -> str:
        return self.manifest.recipe

    @property
    def created_at(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.manifest.created_at).timestamp()

    @property
    def vector_shape(self) -> tuple[int, int]:
        """(D, K) of a user row of this bundle; K is 0 for a ranker without user vectors."""
        width = 0 if self.domain_vectors is None else self.domain_vectors.shape[1]
        return len(self.domains), width

    @property
    def providers(self) -> list[str]:
        return sorted({provider for graph in self.graphs.values() for provider in graph.providers[:1]})

    def _domain(self, number: int, entry: DomainEntry, device: str, cache: Path | None) -> DomainModel:
        retriever = self.manifest.retriever
        home = self.directory / entry.directory
        user_tower = self._graph(f"{entry.directory}/user_tower", retriever.user_inputs, "embedding", device)
        ad_tower = self._graph(f"{entry.directory}/ad_tower", retriever.ad_inputs, "embedding", device)
        index = open_index(entry.index, home, "gpu" if device == "cuda" else device, cache)
        ads = self._ads(home / "ads", entry)
        if index.size != entry.ads or index.dimension != retriever.dimension:
            found, expected = f"{index.size} x {index.dimension}", f"{entry.ads} x {retriever.dimension}"
            raise BundleError(f"{home}: index holds {found}, manifest says {expected}", "rebuild the bundle")
        return DomainModel(entry.name, number, user_tower, ad_tower, index, entry.index.kind, ads)

    def _ads(self, directory: Path, entry: DomainEntry) -> AdTable:
        block = self.schema.block("ad")
        ids = IdTable.load(directory / "ids")
        ids.find([""])  # builds the reverse table here, not in the first request that excludes an ad
        # asarray keeps the mapping and drops numpy's memmap class, whose every indexing costs microseconds of Python
        names = ("codes", "dense", "bid", "active", "popular")
        arrays = {name: np.asarray(load_array(directory / f"{name}.npy")) for name in names}
        shapes: dict[str, Sequence[int]] = {
            "codes": (entry.ads, block.code_width),
            "dense": (entry.ads, block.dense_width),
            "bid": (entry.ads,),
            "active": (entry.ads,),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise BundleError(f"{directory / name}.npy has shape {arrays[name].shape}, not {shape}", "rebuild the bundle")
        popular = arrays["popular"]
        if len(ids) != entry.ads or (len(popular) and not 0 <= int(popular.min()) <= int(popular.max()) < entry.ads):
            raise BundleError(f"{directory}: ids or popular rows do not fit {entry.ads} ads", "rebuild the bundle")
        return AdTable(ids, **arrays)

    def _graph(self, name: str, inputs: Sequence[str], output: str, device: str) -> Graph:
        graph = self.graphs[name] = Graph(self.directory / f"{name}.onnx", inputs, output, device)
        return graph
