"""Training measured: rows a second of `fit_ranker` beside a plain PyTorch loop, and its memory at 10^6 and 10^7 rows.

    python -m loadtests.training [DATASET]     the simulated demo world, or a canonical dataset

The plain loop is what one writes first: a DataLoader over tensors in memory with the default collate, an nn.Embedding a table,
a mean over masked sequences, Adam as it comes; no penalty and no unknown ids, which fit_ranker has. It is run a second time
with the model that fit_ranker trains, which leaves the loop alone to differ. Rounds alternate, so that a slow spell of the
machine hits all of them alike. Threads: OMP_NUM_THREADS.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from contracts.files import read_json, replace_dir, write_json
from contracts.schema import PAD, FeatureSchema
from trainer.datasets import Dataset, synth
from trainer.fit import device, fit_ranker
from trainer.layers import Inputs, Ranker
from trainer.recipes import ranker_plan
from trainer.tables import Tables

MODELS = ("shared_dnn", "dsfm")
SENSITIVE = 5  # of DSFM's features: how many matters here, not which
STEPS = 50
PLAIN_STEPS = 20  # of an epoch of the plain loop
ROUNDS = 5
MEMORY_ROWS = (10**6, 10**7)
MEMORY_STEPS = 400


def main(dataset: str | None = None) -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        if dataset is None:
            synth("demo", directory / "demo")
        whole = Tables.build(Dataset.open(dataset or directory / "demo"), directory / "whole")
        print(f"{whole.name}, {torch.get_num_threads()} threads, rows a second, median [min, max] of {ROUNDS} alternating rounds")
        for name in MODELS:
            plan = ranker_plan(name)
            rows = STEPS * plan.settings.batch_rows
            _rates(name, resized(whole, rows, directory / f"rows-{rows}"), directory / name)
        for rows in MEMORY_ROWS:
            resized(whole, rows, directory / f"rows-{rows}")
            command = [sys.executable, "-m", "loadtests.training", "--memory", str(directory / f"rows-{rows}")]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def _rates(name: str, tables: Tables, directory: Path) -> None:
    settings = replace(ranker_plan(name).settings, epochs=1)
    dataset = TensorDataset(*_flat(tables.batch("train", np.arange(tables.split_size("train")))))

    def ours(number: int) -> float:
        return fit_ranker(model_of(name, tables), tables, settings, directory / str(number)).rows_per_second

    def plain(number: int, stock: bool = True) -> float:
        model = model_of(name, tables)
        if stock:
            model.embedding = StockTokens(tables.schema, model.embedding.dim, model.embedding.names)  # type: ignore[assignment]
            model.embedding_l2 = 0.0
        return _plain_loop(model.train(), DataLoader(dataset, settings.batch_rows, shuffle=True), settings.learning_rate)

    loops: dict[str, Callable[[int], float]] = {
        "fit_ranker": ours,
        "plain loop": plain,
        "plain loop, this model": lambda number: plain(number, stock=False),
    }
    found: dict[str, list[float]] = {one: [] for one in loops}
    for number in range(ROUNDS):
        for one, loop in loops.items():
            found[one].append(loop(number))
    for one, values in found.items():
        ratio = float(np.median(np.array(found["fit_ranker"]) / np.array(values)))
        spread = f"[{min(values):,.0f}, {max(values):,.0f}]"
        print(f"{name:<12}{one:<24}{np.median(values):10,.0f}  {spread:<18} fit_ranker is {ratio:.2f}x", flush=True)


def _plain_loop(model: Ranker, loader: DataLoader[tuple[Tensor, ...]], learning_rate: float) -> float:
    where = device()
    model.to(where)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    criterion = nn.BCEWithLogitsLoss()
    rows, started = 0, time.perf_counter()
    for step, parts in enumerate(loader):
        if step == PLAIN_STEPS:
            break
        *inputs, label = (one.to(where) for one in parts)
        optimizer.zero_grad()
        read = Inputs(*inputs)
        loss = criterion(model(read), label) + model.regularisation(read)
        loss.backward()
        optimizer.step()
        rows += len(label)
        float(loss)  # waits for the device
    return rows / (time.perf_counter() - started)


class StockTokens(nn.Module):
    """Inputs -> tokens_BFE by an nn.Embedding a table, in the order of `names`."""

    def __init__(self, schema: FeatureSchema, dim: int, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.fields = {one.name: (block, one) for block in ("user", "context", "ad") for one in schema.block(block).fields}  # type: ignore[arg-type]
        coded = [one for _, one in self.fields.values() if one.matrix == "codes"]
        self.tables = nn.ModuleDict({self._key(one.table): nn.Embedding(one.cardinality, dim) for one in coded})
        self.numbers = nn.ModuleDict(
            {self._key(n): nn.Linear(1, dim) for n, (_, f) in self.fields.items() if f.matrix == "dense"}
        )
        self.domain = nn.Embedding(len(schema.domains), dim)

    def forward(self, inputs: Inputs) -> Tensor:
        return torch.stack([self._token(name, inputs) for name in self.names], dim=1)

    def _token(self, name: str, inputs: Inputs) -> Tensor:
        if name not in self.fields:
            domain_BE: Tensor = self.domain(inputs.domain)
            return domain_BE
        block, field = self.fields[name]
        codes, dense = inputs.block(block)  # type: ignore[arg-type]
        if field.matrix == "dense":
            number_BE: Tensor = self.numbers[self._key(name)](dense[:, field.columns])
            return number_BE
        table = self.tables[self._key(field.table)]
        if field.kind != "sequence":
            token_BE: Tensor = table(codes[:, field.start])
            return token_BE
        codes_BL = codes[:, field.columns]
        kept_BL1 = (codes_BL != PAD).float()[:, :, None]
        mean_BE: Tensor = (table(codes_BL) * kept_BL1).sum(dim=1) / kept_BL1.sum(dim=1).clamp(min=1)
        return mean_BE

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "_")


def model_of(name: str, tables: Tables) -> Ranker:
    torch.manual_seed(0)
    plan = ranker_plan(name)
    fields = [one.name for one in tables.schema.block("ad").fields[:SENSITIVE]]
    return plan.build(tables.schema, plan.config, fields if plan.selection else [])


def _flat(batch: object) -> list[Tensor]:
    return [*batch.inputs[:-1], batch.label]  # type: ignore[attr-defined]


def resized(whole: Tables, rows: int, directory: Path) -> Tables:
    """The same users and ads; `rows` training events, each domain's in its proportion, repeated in their order."""
    if not directory.is_dir():
        temporary = directory.with_name(f".{directory.name}")
        temporary.mkdir()
        for path in whole.directory.iterdir():
            if path.name not in ("train", "tables.json"):
                (temporary / path.name).symlink_to(path)
        body = read_json(whole.directory / "tables.json")
        old = np.array(body["offsets"]["train"])
        new = old * rows // old[-1]
        body["offsets"]["train"] = [int(one) for one in new]
        (temporary / "train").mkdir()
        for path in (whole.directory / "train").glob("*.npy"):
            values = np.load(path, mmap_mode="r")
            tail = values.shape[1:]
            if 0 in tail:
                np.save(temporary / "train" / path.name, np.zeros((rows, *tail), dtype=values.dtype))
                continue
            out = np.lib.format.open_memmap(temporary / "train" / path.name, "w+", values.dtype, (rows, *tail))
            for first, last, start, stop in zip(old[:-1], old[1:], new[:-1], new[1:], strict=True):
                for at in range(start, stop, max(1, last - first)):
                    end = min(stop, at + last - first)
                    out[at:end] = values[first : first + end - at]
        write_json(temporary / "tables.json", body)
        replace_dir(temporary, directory)
    return Tables.open(directory)


def _memory(directory: Path) -> None:
    """Train for a while; print the peak of resident memory, and of its part that is no file's."""
    tables = Tables.open(directory)
    model = model_of("shared_dnn", tables)
    settings = ranker_plan("shared_dnn").settings
    peak: dict[str, int] = {}
    loss = model.training_loss
    steps = 0

    class Enough(Exception):
        pass

    def watched(batch: object) -> Tensor:
        nonlocal steps
        steps += 1
        for line in Path("/proc/self/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("VmRSS", "RssAnon", "RssFile"):
                peak[key] = max(peak.get(key, 0), int(value.split()[0]) // 1024)
        if steps == MEMORY_STEPS:
            raise Enough
        return loss(batch)  # type: ignore[arg-type]

    model.training_loss = watched  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            fit_ranker(model, tables, settings, Path(scratch))
        except Enough:
            rows = tables.split_size("train")
            found = f"peak RSS {peak['VmRSS']} MiB: anonymous {peak['RssAnon']}, files {peak['RssFile']}"
            print(f"shared_dnn, {rows:,} rows, {steps} steps: {found}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _memory(Path(sys.argv[2]))
    else:
        main(*sys.argv[1:2])
