"""How a ranker is computed on this machine: the first form of a chain that opens and agrees with the stock graph.

    fused   compiled kernels and BLAS on the graph's own weights, user work once a request (rankers.py)
    graph   the ranker's ONNX graph as the trainer exported it

A form must give what the graph gives, within TOLERANCE, on the golden batch and on random requests of every domain, before the
bundle takes traffic; this also warms it. Whatever it raises there, the next one is taken, and the reason stays visible.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from contracts.schema import BlockName, FeatureSchema
from indexer import compiler
from server import golden
from server.fused.weights import NotFused, Weights
from server.inference import F32, Feeds, Graph

_log = logging.getLogger("mdrec.server")

# Float32 sums in another order differ by about 1e-7 in p_click; a wrong weight by far more than this.
TOLERANCE = 1e-5
_COUNTS = (1, 7, 520)  # candidates of a random request: alone, few, more than the chunk that fused rankers work in
_SEED = 0


class Ranker(Protocol):
    def run(self, feeds: Feeds) -> F32:
        """p_click (C,) of one request's candidates."""
        ...


@dataclass(frozen=True)
class Choice:
    """form: what computes; reason: why this one; difference: the largest to the graph's p_click; seconds: to open and check it;
    refused: the forms before it, and why."""

    form: str
    reason: str
    difference: float = 0.0
    seconds: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        return asdict(self)


def fused(path: Path, cache: Path | None) -> Ranker:
    """Raises NotFused for a ranker whose architecture is unknown, and on a machine without Numba."""
    weights = Weights.read(path)  # before Numba is loaded, which takes .5 s
    try:
        compiler.configure(cache)
    except ImportError as error:
        raise NotFused(f"Numba is not there: {error}") from None
    try:
        from server.fused.rankers import FusedRanker
    except Exception as error:  # Numba trusts what stands in its cache, and raises whatever reading that raises
        compiler.without_cache(error)
        from server.fused.rankers import FusedRanker

    return FusedRanker(weights)


Open = Callable[[Path, "Path | None"], Ranker]
FORMS: Mapping[str, Open] = {"fused": fused}


def choose(
    graph: Graph, schema: FeatureSchema, cache: Path | None, device: str = "cpu", forms: Mapping[str, Open] = FORMS
) -> tuple[Ranker, Choice]:
    """cache: where compiled code is kept between starts, None for nowhere."""
    if device != "cpu":
        return graph, Choice("graph", f"kernels are for the CPU, this gateway computes on {device}")
    refused: dict[str, str] = {}
    for name, open_form in forms.items():
        started = perf_counter()
        try:
            form = open_form(graph.path, cache)
            difference = _difference(form, graph, schema)
        except NotFused as error:
            refused[name] = str(error)
        except Exception as error:  # a compiler, its cache or a kernel may fail in any way; the graph serves all the same
            _log.exception("ranker form %s of %s cannot be used", name, graph.path)
            refused[name] = f"{type(error).__name__}: {error}"
        else:
            if difference <= TOLERANCE:
                agrees = f"agrees with the graph within {difference:.1g}"
                _log.info("%s is served %s: %s", graph.path, name, agrees)
                return form, Choice(name, agrees, difference, round(perf_counter() - started, 3), refused)
            refused[name] = f"differs from the graph by up to {difference:.3g}, more than {TOLERANCE:g}"
    why = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "no other form was asked for"
    _log.warning("%s is served as a graph: %s", graph.path, why)
    return graph, Choice("graph", why, refused=refused)


def _difference(form: Ranker, graph: Graph, schema: FeatureSchema) -> float:
    """NaN where a form gives what is not a number: no tolerance holds then."""
    found = 0.0
    for feeds in _requests(graph, schema):
        expected, got = graph.run(feeds), form.run(feeds)
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise NotFused(f"gives {got.dtype} {got.shape}, the graph {expected.dtype} {expected.shape}")
        found = float(np.maximum(found, np.max(np.abs(got - expected), initial=0.0)))
    return found


def _requests(graph: Graph, schema: FeatureSchema) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    yield golden.feeds(graph.path.parent, graph.path.stem)
    rng = np.random.default_rng(_SEED)
    for domain in range(len(schema.domains)):
        for count in _COUNTS if domain == 0 else _COUNTS[:2]:
            yield {name: _random(name, schema, domain, count, graph, rng) for name in graph.inputs}


def _random(
    name: str, schema: FeatureSchema, domain: int, count: int, graph: Graph, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """A valid random input; codes 0 (missing) and 1 (unknown) are among those of every field."""
    if name == "domain":
        return np.array([domain])
    if name == "user_vectors":
        return rng.standard_normal((1, len(schema.domains), graph.width("user_vectors")), dtype=np.float32)
    block_name, _, matrix = name.rpartition("_")
    block = schema.block(_block_name(block_name))
    rows = count if block_name == "ad" else 1
    if matrix == "dense":
        return rng.standard_normal((rows, block.dense_width), dtype=np.float32)
    codes = np.zeros((rows, block.code_width), dtype=np.int32)
    for one in block.fields:
        if one.matrix == "codes":
            codes[:, one.columns] = rng.integers(0, one.cardinality, (rows, one.width))
    return codes


def _block_name(name: str) -> BlockName:
    names: dict[str, BlockName] = {"user": "user", "context": "context", "ad": "ad"}
    if name not in names:
        raise NotFused(f"the graph has an input of the unknown block {name!r}")
    return names[name]
