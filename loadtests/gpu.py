"""What a GPU does for mdrec, checked against the CPU and measured: search, ranking, training.

    python -m loadtests.gpu [--quick]

Needs the extra mdrec[gpu] and a CUDA device; where there is none it says so and ends with 2. Exit code 1: the GPU disagrees with
the CPU. Times are medians of rounds; of training, the share of the least time a step's memory traffic needs is printed beside.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from contracts.errors import BadInput
from indexer import gpu_check
from indexer.build import build_index
from indexer.gpu import FaissGpuIndex
from indexer.index import FaissCpuIndex
from indexer.policy import IndexSpec
from loadtests import ranker_forms, search, training
from server.inference import Graph
from trainer import export
from trainer.datasets import Dataset, synth
from trainer.fit import device, fit_ranker, parameter_count
from trainer.layers import Ranker
from trainer.recipes import ranker_plan
from trainer.tables import Tables

K = 500
ROUNDS = 5
SECONDS_A_ROUND = 0.3
BATCHES = (1, 16, 64)  # requests that meet
SEARCHED = {100_000: IndexSpec("ivf_sq8", 1265, 16), 1_000_000: IndexSpec("ivf_sq8", 4000, 32)}
CANDIDATES = (100, 500, 2000)
BATCH_ROWS = (1024, 8192, 65536)
STEPS = 30
TOLERANCE = 1e-4  # of p_click: TF32 is off, sums in another order are not the same bits
_ADAM_BYTES = 7 * 4  # a parameter's value, gradient and two moments read, value and moments written, float32
_TOKEN_PASSES = 3  # a batch's token rows are read forward, their gradients written and read backward


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small indices, one ranker, few rounds")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("no CUDA device: install mdrec[gpu] on a machine with one")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    bandwidth = _bandwidth()
    versions = f"torch {torch.__version__}, ONNX Runtime {ort.__version__}"
    print(f"{torch.cuda.get_device_name()}, {versions}, copies {bandwidth / 1e12:.2f} TB/s")
    agree = [_searched(quick), _ranked(quick), _trained(quick, bandwidth)]
    return 0 if all(agree) else 1


def _searched(quick: bool) -> bool:
    """FAISS on both devices: agreement by indexer/gpu_check.py, then ms a query by how many come at once."""
    try:
        reports = [gpu_check.compare(kind) for kind in ("exact", "ivf_flat", "ivf_sq8")]
    except BadInput as error:
        print(f"search: not measured, {error}")
        return False
    for one in reports:
        sets = f"sets {one['all']['overlap']:.5f}, masked {one['masked']['overlap']:.5f}"
        print(f"search {one['kind']:<9} agrees {one['agrees']}, {sets}", flush=True)
    print(f"{'search, k = 500':<34}{'at once':>8}{'CPU ms':>9}{'GPU ms':>9}   CPU / GPU")
    for ads, spec in list(SEARCHED.items())[: 1 if quick else None]:
        ads_NE, users_QE = search.world(ads)
        built, _ = build_index(ads_NE, users_QE, spec, "gpu", K, recall_gate=0.5, seed=0)
        assert isinstance(built, FaissCpuIndex)
        on_gpu = FaissGpuIndex(built)
        for batch in BATCHES:
            asked = np.ascontiguousarray(np.resize(users_QE, (batch, users_QE.shape[1])))
            cpu, gpu = _alternating(partial(built.search, asked, K), partial(on_gpu.search, asked, K))
            name = f"{ads:>9,} ads, {spec.kind}, {spec.nlist:>5} lists"
            print(f"{name}{batch:>11}{cpu / batch:9.3f}{gpu / batch:9.3f}   {cpu / gpu:.1f}", flush=True)
    return all(one["agrees"] for one in reports)


def _ranked(quick: bool) -> bool:
    """The bundle's graph in ONNX Runtime on both devices, then several requests in one run of it, as a gateway on a GPU ranks."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        print("ranking: not measured, this ONNX Runtime has no CUDA provider")
        return False
    print(
        f"{'ranking':<16}{'ads':>6}{'CPU ms':>9}{'GPU ms':>9}{'difference':>12}   GPU, many in one run: ms a request of {BATCHES}"
    )
    agree = True
    models = ranker_forms.models()
    for name in ["dsfm"] if quick else ["dsfm", "dsfm_dfei", "shared_dnn", "pepnet"]:
        with tempfile.TemporaryDirectory() as home:
            agree &= _ranker(name, models[name], Path(home) / "ranker.onnx")
    return agree


def _ranker(name: str, model: Ranker, path: Path) -> bool:
    schema, names = ranker_forms.schema(), export.ranker_inputs(ranker_forms.schema(), model)
    export.export_ranker(model, schema, path)
    cpu, gpu = (Graph(path, names, "p_click", one) for one in ("cpu", "cuda"))
    if gpu.providers[0] != "CUDAExecutionProvider":
        print(f"{name}: the session got {gpu.providers}")
        return False
    worst = 0.0
    for count in CANDIDATES:
        feeds = export.random_feeds(schema, names, model, count, np.random.default_rng(0))
        worst = max(worst, difference := float(np.abs(cpu.run(feeds) - gpu.run(feeds)).max()))
        of_cpu, of_gpu = _alternating(partial(cpu.run, feeds), partial(gpu.run, feeds))
        many = []
        for batch in BATCHES:
            together = partial(gpu.run_requests, [feeds] * batch, [count] * batch)
            worst = max(worst, *(float(np.abs(cpu.run(feeds) - one).max()) for one in together()))
            many.append(_alternating(together)[0] / batch)
        shown = ", ".join(f"{one:.3f}" for one in many)
        print(f"{name:<16}{count:>6}{of_cpu:9.3f}{of_gpu:9.3f}{difference:12.1e}   {shown}", flush=True)
    return worst <= TOLERANCE


def _trained(quick: bool, bandwidth: float) -> bool:
    """One epoch on the demo world on both devices, then rows a second by rows a batch beside the least time of its traffic."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        synth("demo", directory / "demo")
        whole = Tables.build(Dataset.open(directory / "demo"), directory / "whole")
        agree = _same_losses(whole)
        print(f"{'training':<12}{'batch':>8}{'rows/s':>12}   of the floor   floor: bytes a step / bandwidth")
        for name in training.MODELS[: 1 if quick else None]:
            for batch in BATCH_ROWS:
                tables = training.resized(whole, STEPS * batch, directory / f"rows-{batch}")
                settings = replace(ranker_plan(name).settings, epochs=1, batch_rows=batch)
                model = training.model_of(name, tables)
                fit_ranker(model, tables, settings, directory / f"warm-{name}-{batch}")
                rates = [
                    fit_ranker(
                        training.model_of(name, tables), tables, settings, directory / f"{name}-{batch}-{number}"
                    ).rows_per_second
                    for number in range(2 if quick else 3)
                ]
                step_bytes = parameter_count(model) * _ADAM_BYTES + batch * model.embedding.width * 4 * _TOKEN_PASSES
                floor = batch / (step_bytes / bandwidth)
                rate = float(np.median(rates))
                print(
                    f"{name:<12}{batch:>8}{rate:12,.0f}   {rate / floor:12.2%}   {step_bytes / 1e6:.0f} MB, {floor:,.0f} rows/s",
                    flush=True,
                )
    return agree


def _same_losses(tables: Tables) -> bool:
    """A model's loss on one batch, and its gradient's norm, on both devices."""
    rows = np.arange(min(2048, tables.split_size("train")))
    agree = True
    for name in training.MODELS:
        found = []
        for where in (torch.device("cpu"), device()):
            model = training.model_of(name, tables).to(where).eval()
            loss = model.training_loss(tables.batch("train", rows).to(where))
            loss.backward()  # type: ignore[no-untyped-call]
            norms = [float(one.grad.norm()) for one in model.parameters() if one.grad is not None]
            found.append(np.array([float(loss.detach()), float(np.linalg.norm(norms))]))
        relative = float(np.max(np.abs(found[0] - found[1]) / np.abs(found[0])))
        print(f"{name}: loss and gradient on CPU and GPU differ by {relative:.1e} of their size")
        agree &= relative < 1e-4
    return agree


def _alternating(*calls: Callable[[], Any]) -> list[float]:
    """Median milliseconds of each, in rounds that alternate."""
    ms: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, ms, strict=True):
            call()
            count, started = 0, time.perf_counter()
            while (spent := time.perf_counter() - started) < SECONDS_A_ROUND:
                call()
                count += 1
            found.append(1e3 * spent / count)
    return [float(np.median(one)) for one in ms]


def _bandwidth() -> float:
    """Bytes a second of a copy within the device's memory, read and written."""
    values = torch.empty(1 << 28, device="cuda")
    other = torch.empty_like(values)
    other.copy_(values)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        other.copy_(values)
    torch.cuda.synchronize()
    return 10 * 2 * values.numel() * 4 / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
