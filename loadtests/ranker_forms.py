"""The same ranker three ways, at the size of the paper's industrial networks: how long p_click of one request's candidates takes.

    tiled    plain torch.onnx.export of the model; the user's and the context's rows are repeated for every candidate
    graph    the graph that a bundle holds: one row of user and context, tokens spread over candidates inside
    fused    server/fused, from the graph's own weights

30 features x 8 (14 of the user, 4 of the context, 12 of the ad), hidden layers of 256, 128 and 64, 5 sensitive ones, d' 32 and 8.
Sensitive features are the user's and context's; with `+ad` one of them is an ad's of 100 values, with `+id` one more is its id.
One thread each. A round times every form once, in turn; ratios are taken within rounds. The domain is one number in `tiled`, too:
weights of a domain are selected by it.
"""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from contracts.ids import IdTable
from contracts.schema import FeatureSchema, FeatureSpec, Side
from server.fused.chain import fused
from server.inference import Graph
from trainer import export
from trainer.baselines.pepnet import PEPNet, PEPNetConfig
from trainer.baselines.shared_dnn import SharedDNN, SharedDNNConfig
from trainer.dfei import DFEI, DFEIConfig
from trainer.dsfm import DSFM, industrial
from trainer.dsfm_dfei import DSFMDFEI, DSFMDFEIConfig
from trainer.layers import Inputs, Ranker

ROUNDS = 7
SECONDS_A_ROUND = 0.15
COUNTS = (100, 500, 2000)
USERS, ADS, LEVELS, DOMAINS = 20_000, 50_000, 100, 4
HIDDEN = (256, 128, 64)
SENSITIVE = ["u0", "u1", "c0", "c1", "user_id"]
WITH_AD, WITH_AD_ID = ["u0", "u1", "c0", "c1", "a0"], ["u0", "u1", "c0", "a0", "ad_id"]

Feeds = dict[str, np.ndarray[Any, Any]]


def main() -> None:
    """Print medians and, per round, how many times faster `fused` is than either graph."""
    torch.set_num_threads(1)
    print(f"median ms, and ratios to fused: median [min, max] of {ROUNDS} alternating rounds, one thread")
    print(f"{'ranker':<16}{'ads':>6}{'tiled':>9}{'graph':>9}{'fused':>9}   {'tiled / fused':<22}{'graph / fused':<22}difference")
    for name, model in models().items():
        with tempfile.TemporaryDirectory() as home:
            forms = _forms(model, Path(home))
            for count in COUNTS:
                _compare(name, model, forms, count)


def _compare(name: str, model: Ranker, forms: dict[str, Callable[[Feeds], Any]], count: int) -> None:
    feeds = export.random_feeds(schema(), export.ranker_inputs(schema(), model), model, count, np.random.default_rng(0))
    repeated = {key: tiled(key, value, count) for key, value in feeds.items()}
    given = {form: repeated if form == "tiled" else feeds for form in forms}
    answers = {form: run(given[form]) for form, run in forms.items()}
    ms: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(ROUNDS):
        for form, run in forms.items():
            ms[form].append(_one_round(run, given[form]))
    medians = "".join(f"{np.median(ms[form]):9.2f}" for form in ("tiled", "graph", "fused"))
    ratios = [np.array(ms[form]) / np.array(ms["fused"]) for form in ("tiled", "graph")]
    shown = "".join(f"{np.median(one):6.1f} [{one.min():.1f}, {one.max():.1f}]".ljust(22) for one in ratios)
    difference = max(float(np.abs(answers["fused"] - answers[form]).max()) for form in ("tiled", "graph"))
    print(f"{name:<16}{count:>6}{medians}   {shown}{difference:.1e}", flush=True)


def _one_round(run: Callable[[Feeds], Any], feeds: Feeds) -> float:
    """Milliseconds a call."""
    run(feeds)
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SECONDS_A_ROUND:
        run(feeds)
        calls += 1
    return 1e3 * spent / calls


def schema(users: int = USERS, ads: int = ADS, domains: int = DOMAINS) -> FeatureSchema:
    """30 features: 14 of the user, 4 of the context, 12 of the ad; the two ids, and 28 of LEVELS values. Values are called by
    their numbers."""
    sides: dict[Side, list[str]] = {"user": ["user_id", *(f"u{i}" for i in range(13))], "context": [f"c{i}" for i in range(4)]}
    sides["ad"] = ["ad_id", *(f"a{i}" for i in range(11))]
    features = [FeatureSpec(name=name, side=side, kind="categorical") for side, names in sides.items() for name in names]
    sizes = {"user_id": users, "ad_id": ads}
    tables = {one.name: IdTable(map(str, range(sizes.get(one.name, LEVELS)))) for one in features}
    return FeatureSchema(tuple(features), tuple(f"d{i}" for i in range(domains)), tables, {})


def models() -> dict[str, Ranker]:
    of, both = schema(), DSFMDFEIConfig(hidden=HIDDEN, attention=32, hidden_attention=8)
    built: dict[str, Callable[[], Ranker]] = {
        "dsfm_dfei": lambda: DSFMDFEI(of, both, SENSITIVE),
        "dsfm_dfei +ad": lambda: DSFMDFEI(of, both, WITH_AD),
        "dsfm_dfei +id": lambda: DSFMDFEI(of, both, WITH_AD_ID),
        "dsfm": lambda: DSFM(of, industrial(), SENSITIVE),
        "dsfm +ad": lambda: DSFM(of, industrial(), WITH_AD),
        "dsfm +id": lambda: DSFM(of, industrial(), WITH_AD_ID),
        "shared_dnn": lambda: SharedDNN(of, SharedDNNConfig(hidden=HIDDEN)),
        "dfei": lambda: DFEI(of, DFEIConfig()),
        "pepnet": lambda: PEPNet(of, PEPNetConfig(hidden=HIDDEN)),
    }
    models = {}
    for name, build in built.items():
        torch.manual_seed(0)
        models[name] = spread(build())
    return models


def spread(model: Ranker) -> Ranker:
    """The model with random weights so large that p_click is spread over (0, 1)."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.normal_(0.0, 0.3 if value.dim() < 2 or min(value.shape) == 1 else value.shape[1] ** -0.5)
    return model


def _forms(model: Ranker, home: Path) -> dict[str, Callable[[Feeds], Any]]:
    path, names = home / "ranker.onnx", export.ranker_inputs(schema(), model)
    export.export_ranker(model, schema(), path)
    graph = Graph(path, names, "p_click", "cpu")
    return {"tiled": plain(model, names), "graph": graph.run, "fused": fused(path, home / "kernels").run}


def tiled(name: str, value: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    return value if name == "domain" or len(value) == count else np.repeat(value, count, axis=0)


class _Plain(nn.Module):
    def __init__(self, model: Ranker, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: Tensor) -> Tensor:
        named = dict(zip(self.names, given, strict=True))
        rows = named["ad_codes"].shape[0]
        none = torch.zeros((rows, 0))
        filled = {f"{one}_dense": named.get(f"{one}_dense", none) for one in ("user", "context", "ad")}
        codes = {f"{one}_codes": named[f"{one}_codes"] for one in ("user", "context", "ad")}
        inputs = Inputs(**codes, **filled, domain=named["domain"], user_vectors=named.get("user_vectors"))
        return torch.sigmoid(self.model.calibrated(inputs))


def plain(model: Ranker, names: list[str]) -> Callable[[Feeds], Any]:
    """A session on the model as torch.onnx.export gives it with its defaults."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(plain_graph(model, schema(), names), options, providers=["CPUExecutionProvider"])
    read = {one.name for one in session.get_inputs()}
    return lambda given: session.run(None, {name: value for name, value in given.items() if name in read})[0]


def plain_graph(model: Ranker, of: FeatureSchema, names: list[str]) -> bytes:
    """The model as torch.onnx.export gives it with its defaults: every input but `domain` has a row a candidate. One output,
    p."""
    feeds = export.random_feeds(of, names, model, 3, np.random.default_rng(0))
    example = tuple(torch.from_numpy(tiled(name, feeds[name], 3)) for name in names)
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Plain(model, names).eval(), example, buffer, input_names=names, output_names=["p"], dynamo=False,
            dynamic_axes={name: {0: "rows"} for name in names if name != "domain"}, opset_version=export.OPSET,
        )  # fmt: skip
    return bytes(buffer.getvalue())
