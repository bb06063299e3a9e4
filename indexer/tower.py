"""Runs an exported tower over many rows: ONNX Runtime, in chunks, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from contracts.errors import BadInput, BundleError
from indexer.index import Matrix

Array = np.ndarray[Any, Any]

CHUNK = 4096  # rows a run: fixed, because the last bits of a float32 product may depend on it
_OUTPUT = "embedding"


def open_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """A CPU session with `threads` intra-op threads. Raises BundleError naming the file when it is not a tower."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not path.is_file():
        raise BundleError(f"{path} is missing", "export the tower again")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        message = f"{path} is not a readable ONNX model: {str(error).splitlines()[0]}"
        raise BundleError(message, "the file was cut short or altered; export the tower again") from error
    if [one.name for one in session.get_outputs()] != [_OUTPUT]:
        names = ", ".join(one.name for one in session.get_outputs())
        raise BundleError(f"{path} gives {names}, a tower gives one output called {_OUTPUT!r}", "export the tower again")
    return session


def embed(session: ort.InferenceSession, feeds: Mapping[str, Array], chunk: int = CHUNK, workers: int = 1) -> Matrix:
    """(A, E) float32 embeddings of A rows. feeds: input name -> (A, width), also memory-mapped; what the tower does not read
    is ignored. `workers` chunks run at once and never change the result. Raises BadInput naming a missing or misfit input."""
    wanted = [one.name for one in session.get_inputs()]
    missing = [name for name in wanted if name not in feeds]
    if missing:
        raise BadInput(f"the tower reads {', '.join(missing)}, fed are {', '.join(sorted(feeds)) or 'none'}")
    lengths = {len(feeds[name]) for name in wanted}
    if len(lengths) != 1 or lengths == {0}:
        raise BadInput(f"the tower's inputs have {sorted(lengths)} rows", "feed equally many rows, at least one")
    (total,) = lengths

    def run(start: int) -> Matrix:
        part = {name: np.ascontiguousarray(feeds[name][start : start + chunk]) for name in wanted}
        embedding: Matrix = session.run([_OUTPUT], part)[0]
        return embedding

    starts = range(0, total, chunk)
    if workers == 1:
        return np.concatenate([run(start) for start in starts])
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(run, starts)))
