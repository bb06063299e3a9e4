"""ONNX graphs in the gateway: one intra-op thread and sequential execution each, so that parallelism comes from workers
and never from thread pools that fight over cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from contracts.errors import BundleError
from server import onnx_file

Feeds = Mapping[str, np.ndarray[Any, Any]]
_OF_ALL = "domain"  # the input that all candidates of a run have in common
F32 = np.ndarray[Any, np.dtype[np.float32]]

# Weights of this size and more are mapped, not copied. A session of a million ads' tower kept 257 MB, twice when it was made from
# bytes; with a mapped table, 2 MB.
_MAPPED_BYTES = 4 << 20

# TF32, the CUDA provider's default, moved p_click by up to 4e-4 (DSFM, H200).
_PROVIDERS: dict[str, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}


class Graph:
    """One graph with one float32 output. Only the inputs that it declares are fed, whatever else is offered."""

    def __init__(self, path: Path, inputs: Sequence[str], output: str, device: str) -> None:
        """Raises BundleError when the file is no graph, or its inputs and output are not the manifest's."""
        self.path, self._device = path, device
        self._session: ort.InferenceSession | None = None
        self._mapped: list[ort.OrtValue] = []
        session = self._opened()
        self.inputs = [one.name for one in session.get_inputs()]
        outputs = [one.name for one in session.get_outputs()]
        if sorted(self.inputs) != sorted(inputs) or outputs != [output]:
            raise BundleError(
                f"{path} reads {self.inputs} and gives {outputs}, its manifest says {sorted(inputs)} and {[output]}",
                "rebuild the bundle",
            )
        self._output = outputs
        self.takes_requests = all(isinstance(one.shape[0], str) for one in session.get_inputs() if one.name != _OF_ALL)
        self._widths = {one.name: one.shape[-1] for one in session.get_inputs()}
        self.providers: list[str] = list(session.get_providers())  # what it really got, which may be less than was asked for

    def width(self, name: str) -> int:
        """Size of an input's last axis."""
        return int(self._widths[name])

    def run(self, feeds: Feeds) -> F32:
        session = self._session or self._opened()
        answer: F32 = session.run(self._output, {name: feeds[name] for name in self.inputs})[0]
        return answer

    def run_requests(self, requests: Sequence[Feeds], counts: Sequence[int]) -> list[F32]:
        """A ranker's p_click for several requests of one domain in one run, where the graph `takes_requests`. counts: candidates
        of each; what those of a request share is repeated for every one of them."""
        joined: dict[str, np.ndarray[Any, Any]] = {}
        for name in self.inputs:
            values = [one[name] for one in requests]
            if name == _OF_ALL:
                joined[name] = values[0]
            else:
                rows = zip(values, counts, strict=True)
                joined[name] = np.concatenate(
                    [one if len(one) == count else np.repeat(one, count, axis=0) for one, count in rows]
                )
        return np.split(self.run(joined), np.cumsum(counts)[:-1])

    def rest(self) -> None:
        """Let the session and its copy of the weights go; whoever runs the graph again opens it again: for towers that answer no
        request while no ad is added, and for a ranker that is computed otherwise."""
        self._session, self._mapped = None, []

    def _opened(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._device == "cpu":
            _, weights = onnx_file.read(self.path)
            large = {name: ort.OrtValue.ortvalue_from_numpy(one) for name, one in weights.items() if one.nbytes >= _MAPPED_BYTES}
            self._mapped = list(large.values())  # must outlive the session
            for name, value in large.items():
                options.add_initializer(name, value)
        elif not self.path.is_file():
            raise BundleError(f"{self.path} is missing", "restore it or roll back to another bundle")
        try:
            session = ort.InferenceSession(str(self.path), options, providers=_PROVIDERS[self._device])
        except Exception as error:  # onnxruntime raises a class of its own for each way to fail
            raise BundleError(f"{self.path} is not a graph that ONNX Runtime loads: {error}", "rebuild the bundle") from error
        self._session = session
        return session
