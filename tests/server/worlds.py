"""The rotating checkerboard as a bundle: user u wants ad a in domain d iff (u + d) mod 4 = a mod 4. Every probability
is known in closed form, and `bias` marks the generation, so that an answer shows which bundle computed it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from contracts.aliases import Aliases
from contracts.files import save_array
from contracts.ids import IdTable
from contracts.manifest import DatasetEntry, DomainEntry, IndexEntry, Manifest, RankerEntry, RetrieverEntry, UserVectors
from contracts.schema import FIRST, UNKNOWN, FeatureSchema, FeatureSpec, Numeric
from contracts.user_row import UserRow
from indexer.index import ExactIndex
from server.golden import GOLDEN
from server.inference import Graph
from tests.server import graphs

DOMAINS = ("feed", "search", "video", "mail")
HOURS = ("0", "12", "20")
HOUR_LOGITS = np.array([0.0, -0.5, 0.1, 0.2, 0.3])  # missing, unknown, 0, 12, 20
_BUILT = tempfile.TemporaryDirectory(prefix="mdrec-worlds-")
KAPPA, WIDTH, USERS = 4.0, 2, 8
TEMPERATURE_MEAN, TEMPERATURE_DEVIATION = 10.0, 5.0


@dataclass
class World:
    """One bundle to be. ads: per domain; inactive: rows; bids: per row; tower and ranker may be switched off or changed.
    with_features: models know an ad by its class, a mod 4, and not by its id; it has a length, a quality in each domain and
    statistics, too. length_kind: how the length is read."""

    bundle_id: str = "b1"
    recipe: str = "adi+dsfm"
    ads: int = 12
    bias: float = 0.0
    domains: tuple[str, ...] = DOMAINS
    inactive: tuple[int, ...] = ()
    with_ranker: bool = True
    with_encoder: bool = False
    kind: str = "exact"
    bid_step: float = 0.0
    with_features: bool = False
    length_kind: Literal["numeric", "categorical"] = "numeric"
    popular: list[int] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"ns-{self.bundle_id}"

    def ad_id(self, row: int) -> str:
        return f"a{row}"

    @property
    def ad_column(self) -> int:
        """What models read of an ad: its class, or its id."""
        return 1 if self.with_features else 0

    def features(self, row: int) -> dict[str, Any]:
        """Raw features of an ad, as a dataset has them."""
        return {"class": row % 4, "length": row + 0.5, "quality": row % 3 - 1} if self.with_features else {}

    def statistics(self, row: int) -> dict[str, Any]:
        return {"ad_id impressions": row, "class impressions": row % 4, "class rate in domain": 3 - row % 4}

    def bid(self, row: int) -> float:
        return 1.0 + self.bid_step * row

    def wants(self, user: int, domain: str, row: int) -> bool:
        return (user + self.domains.index(domain)) % 4 == row % 4

    def p_click(self, user: int | None, domain: str, row: int, hour: str | None = None, row_vector: float = 0.0) -> float:
        """user None: a stranger; row_vector: sum of the blended user vector of the domain."""
        code = 0 if hour is None else (HOURS.index(hour) + FIRST if hour in HOURS else UNKNOWN)
        match = 4.0 if user is not None and self.wants(user, domain, row) else 0.0
        return float(1 / (1 + np.exp(-(match + HOUR_LOGITS[code] + self.bias + row_vector))))

    def schema(self) -> FeatureSchema:
        features = (
            FeatureSpec(name="user_id", side="user", kind="categorical"),
            FeatureSpec(name="active_days", side="user", kind="numeric"),
            FeatureSpec(name="visits", side="user_domain", kind="numeric", encoding="standardise"),
            FeatureSpec(name="ad_id", side="ad", kind="categorical"),
            FeatureSpec(name="hour", side="context", kind="categorical"),
            FeatureSpec(name="temperature", side="context", kind="numeric", encoding="standardise"),
        )
        if self.with_features:
            features += (
                FeatureSpec(name="class", side="ad", kind="categorical", statistics=True),
                FeatureSpec(name="length", side="ad", kind=self.length_kind),
                FeatureSpec(name="quality", side="ad_domain", kind="numeric", encoding="standardise"),
                FeatureSpec(name="ad_id impressions", side="ad", kind="numeric"),
                FeatureSpec(name="class impressions", side="ad", kind="numeric"),
                FeatureSpec(name="class rate in domain", side="ad_domain", kind="numeric"),
            )
        return FeatureSchema(
            features=features,
            domains=self.domains,
            vocabularies={
                "user_id": IdTable([f"u{n}" for n in range(USERS)]),
                "ad_id": IdTable([self.ad_id(row) for row in range(self.ads)]),
                "hour": IdTable(HOURS),
                "class": IdTable("0123"),
                "length": IdTable(["0.5", "1.5"]),
            },
            numerics={
                "active_days": Numeric(edges=(1.0, 10.0)),
                "visits": Numeric(mean=0.0, deviation=1.0),
                "temperature": Numeric(mean=TEMPERATURE_MEAN, deviation=TEMPERATURE_DEVIATION),
                "length": Numeric(edges=(2.0, 6.0)),
                "quality": Numeric(mean=1.0, deviation=2.0),
                "ad_id impressions": Numeric(edges=(1.0,)),
                "class impressions": Numeric(edges=(1.0, 2.0, 3.0)),
                "class rate in domain": Numeric(edges=(1.0, 2.0, 3.0)),
            },
            statistics=("ad_id impressions", "class impressions", "class rate in domain") if self.with_features else (),
        )

    def user_row(self, user: int, counts: list[float] | None = None, vectors: np.ndarray | None = None) -> UserRow:
        schema, n = self.schema(), len(self.domains)
        encoded = schema.encode("user", {"user_id": [f"u{user}"], "active_days": [3]}, 1)
        per_domain = schema.encode("user_domain", {}, n)
        width = WIDTH if self.with_ranker else 0
        return UserRow(
            day=20000,
            counts=np.array(counts or [0.0] * n, dtype=np.float32),
            vectors=np.zeros((n, width), dtype=np.float32) if vectors is None else vectors.astype(np.float32),
            codes=encoded.codes[0],
            dense=encoded.dense[0],
            domain_codes=per_domain.codes,
            domain_dense=per_domain.dense,
        )

    def build(self, home: Path, alias: bool = True) -> Path:
        """Put the bundle under `home`; with `alias`, let it serve its recipe. Equal worlds are built once and copied."""
        built = Path(_BUILT.name) / hashlib.sha256(repr(self).encode()).hexdigest()
        if not built.exists():
            self._write(built)
        directory = home / "bundles" / self.bundle_id
        aside = home / "aside" / self.bundle_id
        shutil.copytree(built, aside)
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(directory)  # whole or absent, as the night publishes it
        if alias:
            Aliases(home).move(self.recipe, self.bundle_id)
        return directory

    def _write(self, directory: Path) -> None:
        schema = self.schema()
        schema.save(directory / "schema")
        ad_table = self._ad_table()
        names = {}
        for number, name in enumerate(self.domains):
            names[name] = self._domain(directory / "domains" / str(number), number, ad_table, schema)
        ranker = self._ranker(directory, ad_table)
        manifest = Manifest(
            bundle_id=self.bundle_id,
            recipe=self.recipe,
            namespace=self.namespace,
            dataset=DatasetEntry(name="checkerboard", digest="0", rows=1),
            domains=[
                DomainEntry(name=name, directory=f"domains/{number}", ads=self.ads, index=names[name])
                for number, name in enumerate(self.domains)
            ],
            retriever=RetrieverEntry(name="adi", dimension=4, user_inputs=["user_codes"], ad_inputs=["ad_codes"]),
            ranker=ranker,
            seed=0,
            created_at="2026-11-01T00:00:00+00:00",
        )
        self._golden(directory, manifest)
        manifest.publish(directory)

    def _user_table(self, number: int) -> np.ndarray:
        table = np.zeros((USERS + FIRST, 4), dtype=np.float32)
        for user in range(USERS):
            table[user + FIRST, (user + number) % 4] = 1.0
        return table

    def _ad_table(self) -> np.ndarray:
        """By code of what models read of an ad; nothing is known of an unseen one."""
        if self.with_features:
            return np.concatenate([np.zeros((FIRST, 4), np.float32), np.eye(4, dtype=np.float32)])
        table = np.zeros((self.ads + FIRST, 4), dtype=np.float32)
        table[np.arange(self.ads) + FIRST, np.arange(self.ads) % 4] = 1.0
        return table

    def _domain(self, directory: Path, number: int, ad_table: np.ndarray, schema: FeatureSchema) -> IndexEntry:
        graphs.user_tower(directory / "user_tower.onnx", self._user_table(number))
        graphs.ad_tower(directory / "ad_tower.onnx", ad_table, self.ad_column)
        ids = IdTable([self.ad_id(row) for row in range(self.ads)])
        known = [{**self.features(row), **self.statistics(row)} for row in range(self.ads)]
        columns = {name: [one[name] for one in known] for name in known[0]}
        encoded = schema.encode_block("ad", {"ad_id": list(ids), **columns}, self.ads)
        active = np.ones(self.ads, dtype=bool)
        active[list(self.inactive)] = False
        ids.save(directory / "ads" / "ids")
        save_array(directory / "ads" / "codes.npy", encoded.codes)
        save_array(directory / "ads" / "dense.npy", encoded.dense)
        save_array(directory / "ads" / "bid.npy", np.array([self.bid(row) for row in range(self.ads)], dtype=np.float32))
        save_array(directory / "ads" / "active.npy", active)
        popular = self.popular or list(reversed(range(self.ads)))
        save_array(directory / "ads" / "popular.npy", np.array(popular, dtype=np.int32))
        vectors = ad_table[encoded.codes[:, self.ad_column]]
        return self._index(directory, vectors)

    def _index(self, directory: Path, vectors: np.ndarray) -> IndexEntry:
        common = {"dimension": 4, "size": self.ads, "recall_at": 10, "recall": 1.0, "recall_gate": 0.95, "build_seconds": 0.0}
        if self.kind == "exact":
            ExactIndex(vectors).save(directory / "index.npy")
            return IndexEntry(kind="exact", file="index.npy", parameters={}, **common)
        import faiss

        from indexer.index import FaissCpuIndex

        quantizer = faiss.IndexFlatIP(4)
        index = faiss.IndexIVFFlat(quantizer, 4, 4, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        FaissCpuIndex(index, 4).save(directory / "index.faiss")
        return IndexEntry(kind="ivf_flat", file="index.faiss", parameters={"nprobe": 4}, **common)

    def _ranker(self, directory: Path, ad_table: np.ndarray) -> RankerEntry | None:
        if not self.with_ranker:
            return None
        tables = np.stack([self._user_table(number) for number in range(len(self.domains))])
        inputs = graphs.ranker(directory / "ranker.onnx", tables, ad_table, HOUR_LOGITS, self.bias, True, self.ad_column)
        save_array(directory / "domain_vectors.npy", np.zeros((len(self.domains), WIDTH), dtype=np.float32))
        if self.with_encoder:
            hours = np.arange(len(HOUR_LOGITS) * WIDTH, dtype=np.float32).reshape(-1, WIDTH) / 8
            ads = np.ones((self.ads + FIRST, WIDTH), dtype=np.float32) / 4
            graphs.encoder(directory / "user_domain_encoder.onnx", hours, ads)
        vectors = UserVectors(dimension=WIDTH, kappa=KAPPA)
        return RankerEntry(name="dsfm", inputs=inputs, parameters=1, flops_per_candidate=1, user_vectors=vectors)

    def _golden(self, directory: Path, manifest: Manifest) -> None:
        context = {"context_codes": np.array([[3]], dtype=np.int32), "context_dense": np.array([[0.5]], dtype=np.float32)}
        feeds = {
            "user_codes": np.array([[FIRST + 1, 2]], dtype=np.int32),
            "ad_codes": np.repeat([[FIRST], [FIRST + 1], [FIRST + 2]], self.schema().block("ad").code_width, 1).astype(np.int32),
            "domain": np.array([1]),
            "user_vectors": np.full((1, len(self.domains), WIDTH), 0.1, dtype=np.float32),
            **context,
        }
        arrays = {}
        for path in sorted(directory.rglob("*.onnx")):
            name = path.relative_to(directory).with_suffix("").as_posix()
            outputs = {"ranker": "p_click", "user_domain_encoder": "u"}
            output = outputs.get(path.stem, "embedding")
            inputs = {"user_tower": ["user_codes"], "ad_tower": ["ad_codes"]}.get(path.stem)
            if inputs is None:
                assert manifest.ranker is not None
                inputs = [one for one in manifest.ranker.inputs if path.stem == "ranker" or one != "user_vectors"]
            graph = Graph(path, inputs, output, "cpu")
            for one in inputs:
                arrays[f"{name}/in/{one}"] = feeds[one]
            arrays[f"{name}/out/{output}"] = graph.run(feeds)
        np.savez(directory / GOLDEN, **arrays)
