"""From trained halves to a published bundle: evaluate, gate, export, index, features to Redis, manifest last.

Everything is written under the bundle's step directory and renamed into place once it is whole; the manifest is the last
file, the alias the last move.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from contracts.aliases import Aliases
from contracts.errors import WorkFailed
from contracts.files import read_json, replace_dir, save_array, write_json
from contracts.manifest import MANIFEST, DatasetEntry, DomainEntry, Gate, Manifest, RankerEntry, RetrieverEntry
from deploy import bundle_files, gates
from deploy.close_day import bundle_family
from deploy.halves import HELD_OUT, Halves
from deploy.steps import Steps, digest
from trainer import evaluate, feature_store
from trainer.export import block_inputs, ranker_inputs
from trainer.recipes import recipe as recipe_of
from trainer.tables import Tables
from trainer.train import TrainedRanker, TrainedRetriever

EVERYTHING = ("train", *HELD_OUT)
_PACKAGES = ("torch", "onnxruntime", "faiss-cpu", "faiss-gpu", "numpy", "polars")


class Publisher:
    """Publishes one recipe after the other from the same tables."""

    def __init__(self, tables: Tables, halves: Halves, home: Path, client: redis.Redis, steps: Steps, seed: int) -> None:
        self._tables, self._halves, self._client = tables, halves, client
        self._served = tables.at(HELD_OUT[-1])  # what a gateway knows tomorrow
        self._home, self._steps, self._seed = home, steps, seed
        self._aliases = Aliases(home)
        self.judged: dict[str, list[Gate]] = {}
        """By recipe, the gates of its evaluation and export, those that failed among them."""

    def published(self, name: str) -> bool:
        """Whether tonight's bundle of the recipe is there already: it then needs no training."""
        return (self._aliases.bundle_directory(self._bundle_id(name, self._facts(name))) / MANIFEST).is_file()

    def _facts(self, name: str) -> dict[str, Any]:
        return {"tables": self._tables.digest, "recipe": name, "seed": self._seed}

    def publish(self, name: str) -> Manifest:
        """Build the bundle of a recipe unless it is there, and see that its features are in Redis. Raises WorkFailed when a gate
        fails."""
        recipe = recipe_of(name)
        facts = self._facts(name)
        bundle_id = self._bundle_id(name, facts)
        directory = self._aliases.bundle_directory(bundle_id)
        if not self.published(name):
            verdict = self._evaluated(name, facts)
            retriever = self._halves.final_retriever(str(recipe.retriever))
            ranker = self._halves.final_ranker(recipe.ranker) if recipe.ranker else None
            staged = self._staged(name, facts, retriever, ranker)
            self._write_features(bundle_id, ranker)
            manifest = self._manifest(name, bundle_id, staged, verdict, retriever, ranker)
            replace_dir(self._complete(staged, manifest), directory)
        manifest = Manifest.load(directory)
        if feature_store.read_meta(self._client, manifest.namespace) is None:
            ranker = self._halves.final_ranker(recipe.ranker) if recipe.ranker else None
            self._write_features(bundle_id, ranker)
        return manifest

    def _evaluated(self, name: str, facts: dict[str, Any]) -> dict[str, Any]:
        """{"row": metrics as `evaluate --json` writes them, "gates": [...]}; raises WorkFailed when a gate fails."""
        alias = self._aliases.get(name)
        live = Manifest.load(self._aliases.bundle_directory(alias.bundle_id)).metrics if alias else None
        recipe = recipe_of(name)

        def work(path: Path) -> None:
            retriever = self._halves.judged_retriever(str(recipe.retriever))
            ranker = self._halves.judged_ranker(recipe.ranker) if recipe.ranker else None
            row = evaluate.measure(self._tables, "test", name, self._seed, ranker, retriever)
            write_json(path / "evaluation.json", row)

        path = self._steps.run(f"evaluate-{name}", facts, work)
        row = {**read_json(path / "evaluation.json"), "reference": self._reference(facts)}
        judged = gates.judge(row, live, {domain: found["positives"] for domain, found in row["support"].items()})
        self._require(name, judged)
        return {"row": row, "gates": judged}

    def _reference(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What counting alone reaches on the same days (deploy/gates.py)."""

        def work(path: Path) -> None:
            rates = None if self._tables.positives_only else self._halves.judged_ranker("rates")
            row = evaluate.measure(
                self._tables, "test", "reference", self._seed, rates, self._halves.judged_retriever("popularity")
            )
            write_json(path / "evaluation.json", row)

        path = self._steps.run("reference", {"tables": facts["tables"], "seed": self._seed}, work)
        return dict(read_json(path / "evaluation.json"))

    def _staged(self, name: str, facts: dict[str, Any], retriever: TrainedRetriever, ranker: TrainedRanker | None) -> Path:
        """The bundle's files but for evaluation and manifest, and beside them what the manifest says of them."""
        tables, model = self._served, ranker.model if ranker else None

        def graphs(path: Path) -> None:
            bundle_files.export_graphs(tables, retriever.towers, model, path / "bundle")
            differences = bundle_files.agreement_of(tables, retriever.towers, model, path / "bundle", self._seed)
            write_json(path / "agreement.json", differences)
            self._require(name, gates.agreement(differences))

        exported = self._steps.run(f"export-{name}", facts, graphs)

        def rest(path: Path) -> None:
            shutil.copytree(exported / "bundle", path / "bundle")
            tables.schema.save(path / "bundle" / "schema")
            bundle_files.write_ads(tables, path / "bundle")
            if model is not None and model.user_vectors is not None:
                save_array(path / "bundle" / "domain_vectors.npy", feature_store.domain_vectors(model))
            bundle_files.write_golden(tables, model, path / "bundle", self._seed)
            domains = bundle_files.build_indices(tables, path / "bundle", self._seed, self._home / "work" / "sweeps")
            facts = {"domains": [one.model_dump() for one in domains], "agreement": read_json(exported / "agreement.json")}
            write_json(path / "facts.json", facts)

        return self._steps.run(f"index-{name}", facts, rest)

    def _write_features(self, bundle_id: str, ranker: TrainedRanker | None) -> None:
        """Not a step: what Redis holds is known by Redis alone. Written again, it is the same."""
        tables, model = self._served, ranker.model if ranker else None
        counts, vectors = feature_store.encode_user_domains(model, tables, EVERYTHING)
        day = feature_store.last_time(tables, EVERYTHING) // 86_400_000
        rows = feature_store.user_rows(tables, counts, vectors, day)
        feature_store.write_namespace(self._client, bundle_id, rows, feature_store.namespace_meta(tables, model, bundle_id, day))

    def _complete(self, staged: Path, manifest: Manifest) -> Path:
        """A whole bundle aside: a copy, so that a night killed here finds its step untouched."""
        aside = self._home / "bundles" / f".{manifest.bundle_id}.part"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(staged / "bundle", aside)
        manifest.publish(aside)
        return aside

    def _manifest(
        self,
        name: str,
        bundle_id: str,
        staged: Path,
        verdict: dict[str, Any],
        retriever: TrainedRetriever,
        ranker: TrainedRanker | None,
    ) -> Manifest:
        tables, schema, built = self._tables, self._tables.schema, read_json(staged / "facts.json")
        last = feature_store.last_time(tables, EVERYTHING)
        return Manifest(
            bundle_id=bundle_id,
            recipe=name,
            namespace=bundle_id,
            dataset=DatasetEntry(
                name=tables.name,
                digest=tables.digest,
                rows=sum(tables.split_size(split) for split in EVERYTHING),
                through=datetime.fromtimestamp(last / 1000, UTC).isoformat() if last else None,
            ),
            domains=[DomainEntry(**one) for one in built["domains"]],
            retriever=RetrieverEntry(
                name=retriever.name,
                dimension=retriever.towers.dimension,
                user_inputs=block_inputs(schema, "user"),
                ad_inputs=block_inputs(schema, "ad"),
            ),
            ranker=self._ranker_entry(ranker, verdict["row"]) if ranker else None,
            seed=self._seed,
            metrics=verdict["row"],
            gates=verdict["gates"] + gates.agreement(built["agreement"]),
            agreement=built["agreement"],
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            step_seconds=self._steps.seconds,
            versions=_versions(),
        )

    def _ranker_entry(self, ranker: TrainedRanker, row: dict[str, Any]) -> RankerEntry:
        return RankerEntry(
            name=ranker.name,
            inputs=ranker_inputs(self._tables.schema, ranker.model),
            parameters=row["parameters"],
            flops_per_candidate=row["flops_per_candidate"],
            user_vectors=ranker.model.user_vectors,
            sensitive_features=ranker.sensitive,
        )

    def _bundle_id(self, name: str, facts: dict[str, Any]) -> str:
        """<dataset>.<recipe>.<last day>.<digest>: equal inputs and code, equal id."""
        last = feature_store.last_time(self._tables, EVERYTHING)
        day = datetime.fromtimestamp(last / 1000, UTC).strftime("%Y%m%d") if last else "static"
        recipe = re.sub(r"[^A-Za-z0-9_+-]", "-", name)
        mark = digest({**facts, "source": self._steps.source})[:8]
        return f"{bundle_family(self._tables.name)}{recipe}.{day}.{mark}"

    def _require(self, name: str, judged: list[Gate]) -> None:
        self.judged.setdefault(name, []).extend(judged)
        failed = gates.failures(judged)
        if failed:
            raise WorkFailed(
                f"{len(failed)} gate{'s' if len(failed) > 1 else ''} failed: {'; '.join(failed)}", "the live bundle stays"
            )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue
    return found
