"""The golden batch: inputs and the outputs the trainer got for them, replayed before a bundle takes traffic.

golden.npz holds arrays named `<graph>/in/<input>` and `<graph>/out/<output>`, where <graph> is the ONNX file's path in
the bundle without its suffix: `domains/0/user_tower/in/user_codes`, `ranker/out/p_click`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BundleError
from server.inference import Graph

GOLDEN = "golden.npz"
# Float32 graphs agree to about 1e-6 between machines; a wrong weight moves outputs far more than this.
RELATIVE, ABSOLUTE = 1e-3, 1e-4
_REMEDY = "the graphs and the golden batch are of different builds, or the runtime computes differently; rebuild the bundle"


def replay(directory: Path, graphs: Mapping[str, Graph]) -> float:
    """Run every graph on its golden inputs. Returns the largest absolute difference; raises BundleError on the first
    graph that has no golden batch or leaves the tolerance. graphs: by path without suffix."""
    path, arrays = directory / GOLDEN, _read(directory)
    return max((_replay_one(path, name, graph, arrays) for name, graph in graphs.items()), default=0.0)


def feeds(directory: Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The golden inputs of one graph, by name."""
    return _feeds(name, _read(directory))


def _read(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    path = directory / GOLDEN
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is not a readable golden batch: {error}", "rebuild the bundle") from None


def _feeds(name: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {key.rsplit("/", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{name}/in/")}


def _replay_one(path: Path, name: str, graph: Graph, arrays: Mapping[str, np.ndarray[Any, Any]]) -> float:
    feeds = _feeds(name, arrays)
    expected = [array for key, array in arrays.items() if key.startswith(f"{name}/out/")]
    if set(feeds) != set(graph.inputs) or len(expected) != 1:
        raise BundleError(f"{path} has no golden batch for {name}", "rebuild the bundle")
    found = graph.run(feeds)
    if found.shape != expected[0].shape:
        raise BundleError(f"golden batch of {name}: shape {found.shape}, expected {expected[0].shape}", _REMEDY)
    difference = float(np.max(np.abs(found - expected[0]), initial=0.0))
    if not np.allclose(found, expected[0], rtol=RELATIVE, atol=ABSOLUTE):
        raise BundleError(f"golden batch of {name} differs by up to {difference:.3g}", _REMEDY)
    return difference
